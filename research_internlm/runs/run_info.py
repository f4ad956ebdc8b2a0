"""run.json: the facts of a run's start. Rank 0 writes it before step 1; nothing changes it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from research_internlm.data.manifest import RunData
from research_internlm.shared import schema
from research_internlm.shared.run_layout import RUN_FACTS
from research_internlm.shared.schema import Count, Rule

_HINT = "give the --output_dir of a run of run_internlm.py, or restore its run.json"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of the model.

    Attributes:
        base: Of the base model.
        trainable: Those that the run trains.
        ratio: trainable / base.
        lora_cells: Linear cells with a LoRA adapter.
        contest_ratio: trainable as a share of the contest's rounded total.
    """

    base: Count
    trainable: Count
    ratio: float
    lora_cells: Count
    contest_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run was started with.

    Attributes:
        command: Script name and arguments of run_internlm.py.
        started: Local time with its offset, as 2026-11-23T15:41:35+0000.
        workers: Processes of the run, one a card.
        device_target: `Ascend` or `CPU`.
        seed: The recipe's.
        versions: Package -> version.
        imported_from: Package -> file that its import runs; empty in runs from before it was noted.
        load_checkpoint_sha256: Of the base weights; None for random ones, or a folder.
        parameters: Of the model.
        data: `train_dataset` and `eval_dataset`, as far as the run reads them.
    """

    command: list[str]
    started: str
    workers: Annotated[int, Rule(lambda workers: workers > 0, "a whole number above 0")]
    device_target: str
    seed: int | None
    versions: dict[str, str]
    imported_from: dict[str, str] = field(default_factory=dict)
    load_checkpoint_sha256: str | None
    parameters: Parameters
    data: dict[str, RunData] = field(default_factory=dict)


def read_run_info(folder: Path) -> RunInfo:
    """The run.json of a run folder.

    Raises:
        ToolkitError: It is missing or not valid.
    """
    return schema.read(folder / RUN_FACTS, RunInfo, "the run's facts", _HINT)
