"""The owner of a run's facts: what its config, run.json, logs, checkpoints and results each say.

The report and the hand-in read a run only through here. Each source states facts under the same keys, so
whether yaml, log, checkpoint and report agree is one comparison (notes, trap 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from research_internlm import lora
from research_internlm import recipe as recipes
from research_internlm.contest import logs, schedule, score, worker_logs
from research_internlm.contest.checkpoint_header import adapter_facts, read_header, step_of
from research_internlm.errors import ToolkitError
from research_internlm.files import read_json, read_manifest, require_file

Facts = dict[str, Any]
LINKS = "obs_links.json"  # written by upload.py --record


@dataclass(frozen=True)
class Checkpoint:
    """A full checkpoint of rank 0.

    Attributes:
        path: Its file.
        step: Steps done when it was saved, read from inside.
        facts: LoRA facts and global batch size, read from inside.
    """

    path: Path
    step: int
    facts: Facts


class RunFolder:
    """The output folder of one training run, read lazily.

    Args:
        path: `--output_dir` of run_internlm.py.

    Raises:
        ToolkitError: It holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        hint = "give the --output_dir of a run of run_internlm.py"
        self.recipe = recipes.load_yaml(require_file(self.path / "resolved_config.yaml", "the run's", hint))
        self.facts = read_json(self.path / "run.json", "the run's facts", hint)
        if "train_dataset" not in self.facts.get("data", {}):
            raise ToolkitError(f"{self.path} is no training run: its run.json names no train_dataset")

    @cached_property
    def logs(self) -> dict[int, worker_logs.RankLog]:
        """Rank -> worker log."""
        return worker_logs.read_run(self.path)

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
    def checkpoints(self) -> list[Checkpoint]:
        """Full checkpoints of rank 0 by step.

        Raises:
            ToolkitError: One of them is truncated.
        """
        found = []
        for path in sorted(self.path.glob("checkpoint/rank_0/*.ckpt")):
            header = read_header(path)
            batch = header.get("global_batch_size")
            facts = adapter_facts(header)
            if batch and batch.scalar:
                facts["global_batch_size"] = int(batch.scalar)
            found.append(Checkpoint(path, step_of(header, path), facts))
        return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.path))

    @cached_property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """Result files of evaluate.py in the run folder: name -> content."""
        files = [path for path in sorted(self.path.rglob("results*.json"))
                 if ".predictions." not in path.name]
        return {str(path.relative_to(self.path)): read_json(path, "the results") for path in files}

    def is_base(self, result: Mapping[str, Any]) -> bool:
        """Whether a result is the base model's own: made with the weights this run started from."""
        own = self.facts.get("load_checkpoint_sha256")
        return own is not None and result.get("checkpoint_sha256") == own

    def results_of(self, task: str, base: bool) -> dict[str, Mapping[str, Any]]:
        """Results of `mmlu` or `squad`, of the base model or of the tuned ones."""
        return {name: result for name, result in self.results.items()
                if result.get("task") == task and self.is_base(result) == base}

    def best_mmlu(self) -> tuple[str, Mapping[str, Any]] | None:
        """The tuned model's best multiple-choice result; the rules let the best checkpoint count."""
        return max(self.results_of("mmlu", base=False).items(), default=None,
                   key=lambda item: item[1]["overall"]["accuracy"])

    def tuned_squad(self) -> tuple[str, Mapping[str, Any]] | None:
        """The SQuAD result of the checkpoint with the best accuracy; the last file where none matches."""
        found = self.results_of("squad", base=False)
        best = self.best_mmlu()
        same = {name: result for name, result in found.items()
                if best and result["checkpoint_sha256"] == best[1]["checkpoint_sha256"]}
        return max((same or found).items(), default=None)

    def gate(self) -> score.Gate | None:
        """The SQuAD gate against the base model's own result, where both were measured."""
        tuned = self.tuned_squad()
        base = max(self.results_of("squad", base=True).items(), default=None)
        if tuned is None or base is None:
            return None
        return score.gate_against_base(score.squad_pair(tuned[1]), score.squad_pair(base[1]))

    @property
    def contest_ratio(self) -> float:
        """Low-parameter ratio as the second phase counts it."""
        return lora.count_parameters(self.model_config).contest_ratio

    @cached_property
    def links(self) -> list[Mapping[str, Any]]:
        """Uploads that upload.py recorded."""
        path = self.path / LINKS
        return read_json(path, "the upload record") if path.is_file() else []

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
        """What each source says, source -> facts; sources that are absent are left out.

        Raises:
            ToolkitError: A source cannot be read.
        """
        sources = {"resolved_config.yaml": self._config_facts(), "run.json": {
            "trainable": self.facts["parameters"]["trainable"], "cards": self.facts["workers"],
            "train_rows": self.train_data["counts"]["out"]}}
        sources["training log"] = self._log_facts()
        for checkpoint in self.checkpoints:
            sources[checkpoint.path.name] = checkpoint.facts
        return sources

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
                "lora_rank": pet_config["lora_rank"], "lora_alpha": pet_config["lora_alpha"],
                "target_modules": " ".join(sorted(
                    cell.name for cell in lora.matched_linears(config, pet_config)))}
        return facts

    def _log_facts(self) -> Facts:
        first = next(iter(self.logs.values()))
        last = next(record for log in self.logs.values() for record in reversed(log.records.values()))
        facts = {"scheduled_steps": last.total_steps, "cards": len(self.logs)}
        if first.parameters is not None and not first.millions:
            facts["trainable"] = first.parameters
        return facts

    def summary(self) -> Facts:
        """The log's figures, see contest/logs.py."""
        tokens = logs.useful_tokens_per_step(self.facts, self.recipe["runner_config"]["batch_size"])
        return logs.summarize(self.logs, tokens, self.facts["workers"])


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
