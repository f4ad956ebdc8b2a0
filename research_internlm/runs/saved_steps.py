"""Continuing a run: its complete checkpoints, and a rank made ready to continue from the last of them.

The step is read from inside each file: names and meta.json of MindFormers 1.9.0 are wrong after a resume in
the middle of an epoch. In data-parallel training all ranks hold the same bits, so any rank's file serves all.
Needs no MindSpore.

Restored: weights, Adam moments, learning rate, loss scale and its counters, data order (also when shuffled).
Not restored: the state of the dropout generators, which start again from the seed, so with lora_dropout above
0 the masks after a resume are others than without the interruption; losses then agree only in distribution.
A file with damaged bytes but whole structure is not recognised (MindSpore writes no checksum by default).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from research_internlm.checkpoints.header import read_header, step_of
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import publish
from research_internlm.shared.staging import staging

BROKEN_SUFFIX = ".broken"
# What MindFormers' CheckpointMonitor appends to the weights, in an order that is another after a resume: a
# file cut between two of them is whole by its structure.
_LAST_VALUES = frozenset({"step_num", "epoch_num", "loss_scale", "global_batch_size"})


@dataclass(frozen=True)
class FoundCheckpoints:
    """The checkpoints of a run.

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


def complete_step(path: Path) -> int:
    """The step of a full checkpoint that a run can continue from.

    Raises:
        ToolkitError: It is truncated, or not a full checkpoint.
        FileNotFoundError: It is gone, or a dangling link.
    """
    header = read_header(path)
    step = step_of(header, path)
    if missing := _LAST_VALUES - header.keys():
        raise ToolkitError(f"{path} is truncated: it ends before {', '.join(sorted(missing))}; use the "
                           "checkpoint before it")
    return step


def prepare(folder: Path, rank: int) -> tuple[int, Path] | None:
    """Makes a rank ready to continue: broken files of its own set aside, the last checkpoint in its folder.

    A worker killed while others were saving lacks the last file; it takes a copy of another rank's.

    Args:
        folder: The run's `checkpoint_dir`, or another folder with one folder a rank.
        rank: This worker.

    Returns:
        The step and this rank's file, or None where no rank has a complete checkpoint.
    """
    found = find_checkpoints(folder)
    for path, reason in found.broken.items():
        if run_layout.rank_of(path) == rank:
            print(f"set aside as {path.name}{BROKEN_SUFFIX}: {reason}", flush=True)
            path.rename(path.with_name(path.name + BROKEN_SUFFIX))
    if not found.complete:
        return None
    files = found.complete[found.last]
    if rank not in files:
        files[rank] = _copy_for(rank, files[min(files)])
    return found.last, files[rank]


def _copy_for(rank: int, source: Path) -> Path:
    target = run_layout.rank_dir(source.parent.parent, rank) / run_layout.for_rank(source.name, rank)
    if target.exists():
        raise ToolkitError(f"{target} holds another step than {source}; move it away to continue "
                           "from the latter")
    with staging(target) as folder:
        shutil.copyfile(source, folder / target.name)
        publish(folder / target.name, target)
    return target
