"""The owner of a run's facts: what its config, run.json, logs, checkpoints and results each say.

The report and the hand-in read a run only through here. Each source states facts under the same keys, so
whether yaml, data, log, checkpoint and report agree is one comparison
(docs/traps.md#sources-that-disagree). Sources are read each on its own: one that cannot be read is named by
`unreadable` and left out everywhere else.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.model import lora
from research_internlm.recipes import schedule
from research_internlm.runs import attempts, result_files, train_log_file, worker_logs
from research_internlm.runs.result_files import Checkpoint
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, read_json, read_manifest, require_file
from research_internlm.shared.run_layout import LINKS, RESOLVED_CONFIG, RUN_FACTS

Facts = dict[str, Any]
_HINT = "give the --output_dir of a run of run_internlm.py"
_LEAST_FORM = {"workers": int, "data": {"train_dataset": {"counts": {"out": int}}}}
_RUN_FORM = {"command": list, "started": str, "device_target": str, "versions": dict,
             "parameters": {"trainable": int}, "data": {"train_dataset": {"file": str}}}
_CONFIG_FORM = {"runner_config": {"batch_size": int, "epochs": int}, "train_dataset": dict,
                "model": {"model_config": {"seq_length": int}},
                "lr_schedule": {"learning_rate": (int, float)}}


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
        self.facts = read_json(self.path / RUN_FACTS, "the run's facts", _HINT)
        if isinstance(self.facts, dict) and "train_dataset" not in (self.facts.get("data") or {}):
            raise ToolkitError(f"{self.path} is no training run: its run.json names no train_dataset")
        result_files.require_form(self.facts, _LEAST_FORM, self.path / RUN_FACTS, _HINT)
        result_files.require_form(self.recipe, _CONFIG_FORM, self.path / RESOLVED_CONFIG, _HINT)

    def name_of(self, path: Path) -> str:
        """A file of the run as reports and manifests name it: relative to the run folder."""
        return path.relative_to(self.path).as_posix()

    def unreadable(self) -> list[str]:
        """What is wrong with each source that cannot be read, one sentence a source."""
        found = [*self._results[1], *self._links[1], *self._checkpoints[1], *self._attempts[1]]
        readers: tuple[Callable[[], object], ...] = (
            lambda: result_files.require_form(self.facts, _RUN_FORM, self.path / RUN_FACTS, _HINT),
            lambda: self.logs, lambda: self.steps, self._config_facts, self._manifest_facts)
        for read in readers:
            try:
                read()
            except ToolkitError as error:
                found.append(str(error))
        return list(dict.fromkeys(found))

    @cached_property
    def logs(self) -> dict[int, worker_logs.RankLog]:
        """Rank -> worker log: the text, which is what is handed in.

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
        return schedule.steps_of(self.recipe, self.train_data["counts"]["out"], self.facts["workers"])

    @property
    def train_data(self) -> Mapping[str, Any]:
        """Facts of the training MindRecord."""
        return self.facts["data"]["train_dataset"]

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
    def _results(self) -> tuple[dict[Path, Facts], list[str]]:
        return result_files.read_each(run_layout.result_files(self.path), result_files.read_result)

    @property
    def results(self) -> dict[str, Facts]:
        """Result files of evaluate.py in the run folder: name -> content."""
        return {self.name_of(path): result for path, result in self._results[0].items()}

    @cached_property
    def _links(self) -> tuple[dict[Path, list[Facts]], list[str]]:
        return result_files.read_each(self.path.glob(LINKS), result_files.read_links)

    @property
    def links(self) -> list[Facts]:
        """Uploads that upload.py recorded."""
        return [link for links in self._links[0].values() for link in links]

    @cached_property
    def _attempts(self) -> tuple[dict[Path, Facts], list[str]]:
        return result_files.read_each(
            attempts.records(self.path), result_files.read_attempt)

    @property
    def attempts(self) -> dict[Path, Facts]:
        """Records of train_msrun.sh, first attempt first."""
        return self._attempts[0]

    def command(self) -> str:
        """The shell command that started the run, to be run in the toolkit's folder."""
        for attempt in self.attempts.values():
            return attempt["command"]
        workers = self.facts["workers"]
        start = ["python"] if workers == 1 else [
            "msrun", f"--worker_num={workers}", f"--local_worker_num={workers}"]
        return shlex.join([*start, "research_internlm/run_internlm.py", *self.facts["command"][1:]])

    def is_base(self, result: Mapping[str, Any]) -> bool:
        """Whether a result is the base model's own: made with the weights this run started from."""
        own = self.facts.get("load_checkpoint_sha256")
        return own is not None and result.get("checkpoint_sha256") == own

    def results_of(self, task: str, base: bool) -> dict[str, Facts]:
        """Results of `mmlu` or `squad`, of the base model or of the tuned ones."""
        return {name: result for name, result in self.results.items()
                if result["task"] == task and self.is_base(result) == base}

    def provenance(self) -> list[tuple[str, Mapping[str, Any]]]:
        """File name and manifest of the data files and all they were made from, as far as still there."""
        waiting = [Path(facts["file"]) for facts in self.facts["data"].values()]
        found: dict[str, Mapping[str, Any]] = {}
        while waiting:
            path = waiting.pop(0)
            manifest = read_manifest(path)
            if manifest is not None and path.name not in found:
                found[path.name] = manifest
                waiting += [path.parent / name for name in manifest.get("inputs") or {}]
        return list(found.items())

    def stated(self) -> dict[str, Facts]:
        """What each readable source says, source -> facts."""
        sources: dict[str, Facts] = {}
        with contextlib.suppress(ToolkitError):
            sources[RESOLVED_CONFIG] = self._config_facts()
        sources[RUN_FACTS] = {"cards": self.facts["workers"], **_data_facts(self.train_data),
                              **_given(self.facts.get("parameters") or {}, "trainable")}
        with contextlib.suppress(ToolkitError):
            sources |= self._manifest_facts()
        sources |= self._log_facts()
        for checkpoint in self.checkpoints:
            sources[checkpoint.path.name] = checkpoint.facts
        return sources

    def _manifest_facts(self) -> dict[str, Facts]:
        """What the training file's manifest says today, where the file is still there."""
        path = Path(self.train_data.get("file") or self.path / "none")
        manifest = read_manifest(path)
        if manifest is None:
            return {}
        result_files.require_form(manifest, {"counts": {"out": int}}, manifest_path(path),
                                 "convert the data again")
        return {manifest_path(path).name: _data_facts(manifest)}

    def _config_facts(self) -> Facts:
        config = self.model_config
        runner = self.recipe["runner_config"]
        facts = {
            "trainable": lora.count_parameters(config).trainable,
            "seq_length": config["seq_length"], "batch_size": runner["batch_size"],
            "epochs": runner["epochs"], "scheduled_steps": self.steps.per_epoch * self.steps.epochs,
            "global_batch_size": runner["batch_size"] * self.facts["workers"],
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


def _data_facts(data: Mapping[str, Any]) -> Facts:
    """Facts of a MindRecord's manifest, or of run.json's copy of it."""
    return {"train_rows": data["counts"]["out"], **_given(data, "seq_length"),
            **({"train_sha256": data["sha256"]} if data.get("sha256") else {})}


def _given(facts: Mapping[str, Any], key: str) -> Facts:
    return {} if facts.get(key) is None else {key: facts[key]}


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
