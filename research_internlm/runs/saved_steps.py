"""Continuing a run: its complete saves, and what a worker loads to continue from the last of them.

A save is a full checkpoint, or the state (adapter, optimizer, counters) that continues on the base weights
the run started from. The step is read from inside each file: names and meta.json of MindFormers 1.9.0 are
wrong after a resume in the middle of an epoch. In data-parallel training all ranks hold the same bits, so any
rank's file serves all. Needs no MindSpore.

Restored: weights, Adam moments, learning rate, loss scale and its counters, data order (also when shuffled).
Not restored: the state of the dropout generators, which start again from the seed, so with lora_dropout above
0 the masks after a resume are others than without the interruption; losses then agree only in distribution.
A file with damaged bytes but whole structure is not recognised (MindSpore writes no checksum by default).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from research_internlm.checkpoints.header import read_header, step_of
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError

BROKEN_SUFFIX = ".broken"
# What MindFormers' CheckpointMonitor appends to the weights, in an order that is another after a resume: a
# file cut between two of them is whole by its structure.
_LAST_VALUES = frozenset({"step_num", "epoch_num", "loss_scale", "global_batch_size"})


@dataclass(frozen=True)
class FoundCheckpoints:
    """The saves of a run.

    Attributes:
        complete: Step -> rank -> file.
        broken: Files that cannot be resumed from, with the reason.
    """

    complete: dict[int, dict[int, Path]]
    broken: dict[Path, str]

    @property
    def last(self) -> int:
        """Last step that some rank saved completely; 0 for none."""
        return max(self.complete, default=0)


def find_checkpoints(folder: Path) -> FoundCheckpoints:
    """Looks into every full checkpoint of every rank.

    Args:
        folder: The run's `checkpoint_dir`.
    """
    found = FoundCheckpoints({}, {})
    for path in run_layout.rank_files(folder):
        try:
            step = complete_step(path)
        except FileNotFoundError:  # another rank has just set its broken file aside
            continue
        except ToolkitError as error:
            found.broken[path] = str(error)
            continue
        found.complete.setdefault(step, {})[run_layout.rank_of(path)] = path
    return found


def find_saves(run: Path) -> FoundCheckpoints:
    """Looks into every save of a run: full checkpoints and states, the full one where a step has both."""
    full, states = (find_checkpoints(folder) for folder in (run_layout.checkpoint_dir(run),
                                                            run_layout.state_dir(run)))
    return FoundCheckpoints({**states.complete, **full.complete}, {**full.broken, **states.broken})


def last_save(found: FoundCheckpoints, rank: int = 0) -> Path | None:
    """The file a rank continues from: its own of the last step, or that of the first rank that has one."""
    if not found.complete:
        return None
    files = found.complete[found.last]
    return files.get(rank) or files[min(files)]


def complete_step(path: Path) -> int:
    """The step of a save that a run can continue from.

    Raises:
        ToolkitError: It is truncated, or no save of a training.
        FileNotFoundError: It is gone, or a dangling link.
    """
    header = read_header(path)
    step = step_of(header, path)
    if missing := _LAST_VALUES - header.keys():
        raise ToolkitError(f"{path} is truncated: it ends before {', '.join(sorted(missing))}; use the "
                           "checkpoint before it")
    return step


def set_aside(broken: Mapping[Path, str], rank: int) -> None:
    """Renames a rank's own broken files, so that retention does not count them."""
    for path, reason in broken.items():
        if run_layout.rank_of(path) == rank:
            print(f"set aside as {path.name}{BROKEN_SUFFIX}: {reason}", flush=True)
            path.rename(path.with_name(path.name + BROKEN_SUFFIX))


def load_folder(run: Path, rank: int, save: Path, base: Path | None) -> tuple[Path, str]:
    """Makes a folder of links from which MindFormers continues a rank, whichever rank wrote the file.

    MindFormers 1.9.0 takes step and loss scale from the folder's rank_N/NAME, and all parameters from the
    .ckpt files that lie in the folder itself (trainer/utils.py, load_resume_context_from_checkpoint and
    get_load_checkpoint_result).

    Args:
        run: The run's folder.
        rank: This worker.
        save: The full checkpoint or state.
        base: The base weights, for a state.

    Returns:
        `load_checkpoint` and `resume_training` for MindFormers.
    """
    folder, name = run_layout.resume_dir(run, rank), run_layout.for_rank(save.name, rank)
    shutil.rmtree(folder, ignore_errors=True)
    links = {run_layout.rank_dir(folder, rank) / name: save, folder / "save.ckpt": save}
    if base is not None:
        links[folder / "base.ckpt"] = base
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve())
    return folder, name
