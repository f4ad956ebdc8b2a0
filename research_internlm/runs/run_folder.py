"""The owner of a run's facts: what its config, run.json, logs, checkpoints and results each say.

The report and the submission read a run only through here. Each source states facts under the same keys, so
whether yaml, data, log, checkpoint and report agree is one comparison
(docs/traps.md#sources-that-disagree). Sources are read each on its own: one that cannot be read is named by
`unreadable` and left out everywhere else.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from research_internlm import recipes
from research_internlm.checkpoints import hf_config
from research_internlm.data.manifest import (
    MindRecordManifest,
    RunData,
    read_data_manifest,
    read_mindrecord_manifest,
)
from research_internlm.model import lora
from research_internlm.recipes import schedule
from research_internlm.runs import attempts, result_files, train_log_file, worker_logs
from research_internlm.runs.result_files import Checkpoint
from research_internlm.runs.results import EvaluationFacts, MmluResult, Result, SquadResult
from research_internlm.runs.run_info import read_run_info
from research_internlm.shared import run_layout, schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, read_manifest, require_file
from research_internlm.shared.run_layout import LINKS, RESOLVED_CONFIG, RUN_FACTS
from research_internlm.shared.schema import Count
from research_internlm.storage.links import Link, read_links

Facts = dict[str, Any]
T = TypeVar("T")
_HINT = "give the --output_dir of a run of run_internlm.py"


@dataclass(frozen=True)
class _RunnerConfig:
    batch_size: Count
    epochs: Count


@dataclass(frozen=True)
class _ModelConfig:
    seq_length: Count


@dataclass(frozen=True)
class _Model:
    model_config: _ModelConfig


@dataclass(frozen=True)
class _LearningRate:
    learning_rate: float


@dataclass(frozen=True)
class _TrainingConfig:
    """What report and submission need of resolved_config.yaml."""

    runner_config: _RunnerConfig
    train_dataset: dict[str, Any]
    model: _Model
    lr_schedule: _LearningRate
    optimizer: dict[str, Any] | None = None
    runner_wrapper: dict[str, Any] | None = None
    recompute_config: dict[str, Any] | None = None


class RunFolder:
    """The output folder of one training run, read lazily.

    Args:
        path: `--output_dir` of run_internlm.py.

    Raises:
        ToolkitError: It holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = recipes.load_yaml(require_file(self.path / RESOLVED_CONFIG, "the run's", _HINT))
        self.info = read_run_info(self.path)
        if "train_dataset" not in self.info.data:
            raise ToolkitError(f"{self.path} is not a training run: its run.json names no train_dataset")
        schema.parse(_TrainingConfig, self.recipe, str(self.path / RESOLVED_CONFIG), _HINT)
        if wrong := hf_config.shape_problems(self.model_config):
            raise ToolkitError(f"{self.path / RESOLVED_CONFIG}, model.model_config: {'; '.join(wrong)}; "
                               f"{_HINT}")

    def name_of(self, path: Path) -> str:
        """A file of the run as reports and manifests name it: relative to the run folder."""
        return path.relative_to(self.path).as_posix()

    def unreadable(self) -> list[str]:
        """What is wrong with each source that cannot be read, one sentence a source."""
        found = [*self._results[1], *self._links[1], *self._checkpoints[1], *self._attempts[1]]
        readers: tuple[Callable[[], object], ...] = (
            lambda: self.logs, lambda: self.steps, self._config_facts, self._manifest_facts)
        for read in readers:
            try:
                read()
            except ToolkitError as error:
                found.append(str(error))
        return list(dict.fromkeys(found))

    @cached_property
    def logs(self) -> dict[int, worker_logs.RankLog]:
        """Rank -> worker log: the text, which is what is submitted.

        Raises:
            ToolkitError: There are none.
        """
        return worker_logs.read_run(self.path)

    @cached_property
    def training_logs(self) -> dict[int, worker_logs.RankLog]:
        """Rank -> what it logged, with the unrounded numbers of train_log.jsonl where the run has one.

        Raises:
            ToolkitError: There are none.
        """
        return train_log_file.read_training(self.path)

    @property
    def readable_logs(self) -> dict[int, worker_logs.RankLog]:
        """Rank -> worker log; empty where there are none."""
        with contextlib.suppress(ToolkitError):
            return self.logs
        return {}

    @property
    def log_files(self) -> list[Path]:
        """Log files of all ranks and attempts."""
        return [file for log in self.readable_logs.values() for file in log.files]

    @cached_property
    def steps(self) -> schedule.Steps:
        """The step counts that config and data give."""
        return schedule.steps_from_recipe(self.recipe, self.train_data.counts.out, self.info.workers)

    @property
    def train_data(self) -> RunData:
        """Facts of the training MindRecord."""
        return self.info.data["train_dataset"]

    @property
    def model_config(self) -> Mapping[str, Any]:
        """The config's `model.model_config`."""
        return recipes.model_config(self.recipe)

    @cached_property
    def _checkpoints(self) -> tuple[dict[Path, Checkpoint], list[str]]:
        return result_files.read_each(run_layout.rank_files(run_layout.checkpoint_dir(self.path), 0),
                                     result_files.read_checkpoint)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Full checkpoints of rank 0 by step."""
        return sorted(self._checkpoints[0].values(),
                      key=lambda checkpoint: (checkpoint.step, checkpoint.path))

    @cached_property
    def _results(self) -> tuple[dict[Path, Result], list[str]]:
        return result_files.read_each(run_layout.result_files(self.path), result_files.read_result)

    @property
    def results(self) -> dict[str, Result]:
        """Result files of evaluate.py in the run folder: name -> content."""
        return {self.name_of(path): result for path, result in self._results[0].items()}

    @cached_property
    def _links(self) -> tuple[dict[Path, list[Link]], list[str]]:
        return result_files.read_each(self.path.glob(LINKS), read_links)

    @property
    def links(self) -> list[Link]:
        """Uploads that upload.py recorded."""
        return [link for links in self._links[0].values() for link in links]

    @cached_property
    def _attempts(self) -> tuple[dict[Path, attempts.Attempt], list[str]]:
        return result_files.read_each(
            attempts.records(self.path), attempts.read_attempt)

    @property
    def attempts(self) -> dict[Path, attempts.Attempt]:
        """Records of train_msrun.sh, first attempt first."""
        return self._attempts[0]

    def command(self) -> str:
        """The shell command that started the run, to be run in the toolkit's folder."""
        for attempt in self.attempts.values():
            return attempt.command
        workers = self.info.workers
        start = ["python"] if workers == 1 else [
            "msrun", f"--worker_num={workers}", f"--local_worker_num={workers}"]
        return shlex.join([*start, "research_internlm/run_internlm.py", *self.info.command[1:]])

    def is_base(self, result: EvaluationFacts) -> bool:
        """Whether a result is the base model's own: made with the weights this run started from."""
        own = self.info.load_checkpoint_sha256
        return own is not None and result.checkpoint_sha256 == own

    def mmlu_results(self, base: bool) -> dict[str, MmluResult]:
        """Multiple-choice results, of the base model or of the tuned ones."""
        return self._results_of(MmluResult, base)

    def squad_results(self, base: bool) -> dict[str, SquadResult]:
        """SQuAD results, of the base model or of the tuned ones."""
        return self._results_of(SquadResult, base)

    def _results_of(self, kind: type[T], base: bool) -> dict[str, T]:
        return {name: result for name, result in self.results.items()
                if isinstance(result, kind) and self.is_base(result) == base}

    def provenance(self) -> list[tuple[str, Mapping[str, Any]]]:
        """File name and manifest of the data files and all they were made from, as far as still there."""
        waiting = [Path(data.file) for data in self.info.data.values()]
        found: dict[str, Mapping[str, Any]] = {}
        while waiting:
            path = waiting.pop(0)
            manifest = read_manifest(path)
            if manifest is not None and path.name not in found:
                found[path.name] = manifest
                waiting += [path.parent / name for name in read_data_manifest(path).inputs]
        return list(found.items())

    def stated(self) -> dict[str, Facts]:
        """What each readable source says, source -> facts."""
        sources: dict[str, Facts] = {}
        with contextlib.suppress(ToolkitError):
            sources[RESOLVED_CONFIG] = self._config_facts()
        sources[RUN_FACTS] = {"cards": self.info.workers, **_data_facts(self.train_data),
                              "trainable": self.info.parameters.trainable}
        with contextlib.suppress(ToolkitError):
            sources |= self._manifest_facts()
        sources |= self._log_facts()
        for checkpoint in self.checkpoints:
            sources[checkpoint.path.name] = checkpoint.facts
        return sources

    def _manifest_facts(self) -> dict[str, Facts]:
        """What the training file's manifest says today, where the file is still there."""
        path = Path(self.train_data.file)
        manifest = read_mindrecord_manifest(path)
        return {manifest_path(path).name: _data_facts(manifest)} if manifest else {}

    def _config_facts(self) -> Facts:
        config = self.model_config
        runner = self.recipe["runner_config"]
        facts = {
            "trainable": lora.count_parameters(config).trainable,
            "seq_length": config["seq_length"], "batch_size": runner["batch_size"],
            "epochs": runner["epochs"], "scheduled_steps": self.steps.per_epoch * self.steps.epochs,
            "global_batch_size": runner["batch_size"] * self.info.workers,
            "learning_rate": self.recipe["lr_schedule"]["learning_rate"],
        }
        pet_config = config.get("pet_config")
        if pet_config:
            facts |= {
                **{key: lora.setting(pet_config, key) for key in ("lora_rank", "lora_alpha")},
                "target_modules": " ".join(sorted(
                    cell.name for cell in lora.matched_linears(config, pet_config)))}
        return facts

    def _log_facts(self) -> dict[str, Facts]:
        """The first rank's facts as the training log's, and those of other ranks that differ from them."""
        sources: dict[str, Facts] = {}
        first: Facts = {}
        logs = self.readable_logs
        for rank, log in logs.items():
            facts: Facts = {}
            if log.records:
                facts["scheduled_steps"] = log.records[max(log.records)].total_steps
            if log.parameters is not None and not log.millions:
                facts["trainable"] = log.parameters
            differing = {key: value for key, value in facts.items() if first.setdefault(key, value) != value}
            if differing:
                sources[f"training log of rank {rank}"] = differing
        return {"training log": {**first, "cards": len(logs)}, **sources} if logs else {}


def _data_facts(data: MindRecordManifest | RunData) -> Facts:
    """Facts of a MindRecord's manifest, or of run.json's copy of it."""
    return {"train_rows": data.counts.out, "seq_length": data.seq_length,
            **({"train_sha256": data.sha256} if data.sha256 else {})}


def disagreements(stated: Mapping[str, Facts]) -> Iterator[str]:
    """Facts that two sources state differently.

    Args:
        stated: Source -> facts.

    Yields:
        One sentence a fact, with every source's value.
    """
    keys: Sequence[str] = list(dict.fromkeys(key for facts in stated.values() for key in facts))
    for key in keys:
        values = {source: facts[key] for source, facts in stated.items() if key in facts}
        if len({str(value) for value in values.values()}) > 1:
            yield f"{key} is " + ", ".join(f"{value} in {source}" for source, value in values.items())
