"""Results of one or several files that change as a whole: all old ones, or all new ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from research_internlm.shared.files import manifest_path, require_absent
from research_internlm.shared.staging import Stage, stage_of

_PATIENCE = 2.0  # seconds; a process that was just killed needs a moment to go
_KEPT = ".without_manifest"


@dataclass(frozen=True)
class ResultSet:
    """Results in the making.

    Attributes:
        folder: Where they are written, under their final names.
    """

    folder: Path
    _stage: Stage
    _kept: Mapping[str, str]

    def publish(self, *names: str) -> None:
        """Gives the results their final names.

        Args:
            *names: All that results of this kind can consist of, what vouches for the others last. Manifests
                that lie beside them are added. Of one that was not written, an earlier file is removed.
        """
        names = dict.fromkeys((*names, *(manifest_path(name).name for name in names)))
        there = [name for name in names if (self.folder / name).exists()]
        self._stage.publish(there, [name for name in names if name not in there], self._kept)
        for name, other in self._kept.items():
            print(f"{name} had no manifest, so it was not finished or not of this toolkit: made again, the "
                  f"old one is {other}")


@contextlib.contextmanager
def result_set(output: Path, overwrite: bool, finished: Mapping[Path, Path | None] | None = None,
               inputs: Iterable[str | os.PathLike] = (), is_folder: bool = False) -> Iterator[ResultSet]:
    """Locks a set of results until they are made, so that no second process makes them.

    Results without a manifest are unfinished, and are made again without `overwrite`. One that no killed run
    left could be the user's own file: it is kept under another name.

    Args:
        output: The result that the set is named after, in the folder of all of them.
        overwrite: Whether the user asked to replace existing ones.
        finished: Each result -> the manifest it is finished with; None where it has none. Default: `output`
            and the manifest beside it.
        inputs: Files the work reads.
        is_folder: Whether the result is a folder.

    Raises:
        ToolkitError: They exist and are finished, cannot be made where they are, or another process is
            making them.
    """
    finished = finished or {output: manifest_path(output)}
    inputs = [*inputs]
    for path in finished:
        require_absent(path, overwrite=True, inputs=inputs, is_folder=is_folder)
    with stage_of(output, _PATIENCE) as stage:
        kept = {}
        if stage.recovered:
            print(f"{output}: the last run was killed after it had made its results; they are complete, and "
                  "are made again")
        elif not overwrite:
            kept = {path.name: path.name + _KEPT for path, manifest in finished.items()
                    if path.exists() and manifest is not None and not manifest.exists()}
            for path in finished:
                again = bool(kept) and not path.with_name(path.name + _KEPT).exists()
                require_absent(path, again, inputs, is_folder)
        yield ResultSet(stage.new, stage, kept)
