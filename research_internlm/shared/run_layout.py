"""The layout of a run folder (`--output_dir` of run_internlm.py): the names of its files and folders.

    OUTPUT_DIR/
        resolved_config.yaml, run.json      what the run is: its settings, and the facts of its start
        train_log.jsonl                     loss lines of the training, one JSON object a line
        answers.jsonl                       answers of AnswerMonitor, one JSON object a step
        checkpoint/rank_N/*.ckpt            full checkpoints; in data-parallel training rank 0's only
        checkpoint_state/rank_N/*.ckpt      adapter and optimizer state, of the saves between them
        checkpoint_trainable/rank_N/*.ckpt  adapter-only checkpoints
        msrun_log/attempt-NNN/              logs and attempt.json of each launch
        log/                                MindFormers' own logs
        results_TASK_NAME.json, TASK_NAME.log   evaluations
        obs_links.json                      uploads
        .resume/rank_N/                     links to the files a worker continues from
        .lock, .lock-N, .mirror.lock        who is at work here

checkpoint and checkpoint_trainable are MindFormers' names (CheckpointMonitor, 1.9.0).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from research_internlm.shared.files import files_below, list_folder
from research_internlm.shared.staging import is_partial

RESOLVED_CONFIG = "resolved_config.yaml"
RUN_FACTS = "run.json"
IDENTITY = (RUN_FACTS, RESOLVED_CONFIG)  # without both a folder is not a run; the config is written last
TRAIN_LOG = "train_log.jsonl"
ANSWERS = "answers.jsonl"
LINKS = "obs_links.json"  # written by upload.py --record
PREDICTIONS = ".predictions.json"  # suffix of the predictions beside a result
LOG_FOLDER = "msrun_log"
ATTEMPT = "attempt.json"
MSRUN_LOG = "msrun.log"
MIRROR_LOG = "mirror.log"
MIRROR_LOCK = ".mirror.lock"  # of the process that sends the run to its mirror
_CHECKPOINT_FOLDER = re.compile(r"checkpoint\w*")  # also checkpoint_network/, where MindFormers is told to
_STATE_FOLDER = "checkpoint_state"
_RANK_FOLDER = re.compile(r"rank_(\d+)")


def missing_identity(folder: Path) -> list[str]:
    """Files that are missing for a folder to be a run; a kill at the start leaves one of the two."""
    return [name for name in IDENTITY if not (folder / name).is_file()]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return not missing_identity(folder)


def checkpoint_dir(run: Path) -> Path:
    """Folder of the full checkpoints."""
    return run / "checkpoint"


def adapter_dir(run: Path) -> Path:
    """Folder of the adapter-only checkpoints."""
    return run / "checkpoint_trainable"


def state_dir(run: Path) -> Path:
    """Folder of the saves that hold adapter and optimizer state without the frozen base."""
    return run / _STATE_FOLDER


def is_state(checkpoint: Path) -> bool:
    """Whether a save lies in `state_dir`."""
    return checkpoint.parent.parent.name == _STATE_FOLDER


def resume_dir(run: Path, rank: int) -> Path:
    """Folder of links from which MindFormers loads what one worker continues from."""
    return run / ".resume" / f"rank_{rank}"


def rank_dir(checkpoints: Path, rank: int) -> Path:
    """One rank's folder in `checkpoint_dir`, `state_dir` or `adapter_dir`."""
    return checkpoints / f"rank_{rank}"


def rank_of(checkpoint: Path) -> int | None:
    """The rank whose folder a checkpoint lies in, or None."""
    match = _RANK_FOLDER.fullmatch(checkpoint.parent.name)
    return int(match[1]) if match else None


def rank_files(checkpoints: Path, rank: int | None = None, suffixes: Collection[str] = (".ckpt",)
               ) -> list[Path]:
    """Files in the folders of all ranks, or of one, by path; a dangling link counts, a folder does not."""
    if not checkpoints.is_dir():
        return []
    folders = [folder for folder in list_folder(checkpoints) if (match := _RANK_FOLDER.fullmatch(folder.name))
               and rank in (None, int(match[1])) and folder.is_dir()]
    return [path for folder in folders for path in list_folder(folder)
            if path.suffix in suffixes and not path.is_dir()]


def for_rank(name: str, rank: int) -> str:
    """A file's name or a message about it, with another rank in place of those it names."""
    return _RANK_FOLDER.sub(f"rank_{rank}", name)


def in_checkpoints(name: str) -> bool:
    """Whether a path inside a run folder lies in a folder of checkpoints, of whatever kind."""
    return _CHECKPOINT_FOLDER.fullmatch(Path(name).parts[0]) is not None


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in as runs lay them out, or None."""
    checkpoints = checkpoint.parent.parent
    laid_out = rank_of(checkpoint) is not None and in_checkpoints(checkpoints.name)
    return checkpoints.parent if laid_out else None


def attempt_dirs(run: Path) -> dict[int, Path]:
    """Number -> log folder of each launch, first attempt first."""
    found = {path.name.removeprefix("attempt-"): path for path in (run / LOG_FOLDER).glob("attempt-*")}
    return {int(number): found[number] for number in sorted(filter(str.isdigit, found), key=int)}


def next_attempt_dir(run: Path) -> Path:
    """Log folder of the launch after the last."""
    return run / LOG_FOLDER / f"attempt-{max(attempt_dirs(run), default=0) + 1:03d}"


def mindformers_log_dir(run: Path) -> Path:
    """Where MindFormers' own logs go."""
    return run / "log"


def lock_file(run: Path, node: str = "0") -> Path:
    """The lock of a launch, one for each machine of the run."""
    return run / (".lock" if node == "0" else f".lock-{node}")


def evaluation_files(run: Path, task: str, name: str) -> tuple[Path, Path]:
    """Results and log of one evaluation: of a task, with the weights of a name."""
    return run / f"results_{task}_{name}.json", run / f"{task}_{name}.log"


def result_files(run: Path) -> list[Path]:
    """Results of evaluations, wherever in the run folder; no manifests, predictions, unfinished files."""
    return [path for path in files_below(run, "results*.json")
            if not path.name.endswith((PREDICTIONS, ".manifest.json"))
            and not is_partial(path.relative_to(run))]
