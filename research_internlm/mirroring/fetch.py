"""Making a run folder from its mirror: verified, complete files only, what is there already left alone.

Checkpoints, run.json and resolved_config.yaml must come; a log that is missing or damaged is only named.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from research_internlm.mirroring.index import (
    Index,
    Mirrored,
    differences,
    index_key,
    key_of,
    object_of,
    read_run,
    wanted_steps,
)
from research_internlm.runs import saved_steps
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import publish, require_room, sha256_of
from research_internlm.shared.run_layout import IDENTITY, RESOLVED_CONFIG
from research_internlm.storage.obs import ObjectStore, UnreachableError

PARTIAL = ".partial-mirror"
_TRIES = 2  # a partial file left by an earlier fetch may be the damaged one


class EmptyMirrorError(ToolkitError):
    """A mirror holds no run yet, so there is nothing to lose by starting one."""


def read_index(store: ObjectStore, prefix: str) -> Index:
    """Reads what a mirror holds.

    Raises:
        EmptyMirrorError: There is none, or the run's own facts were never sent, and so no checkpoint.
        ToolkitError: It cannot be read.
    """
    url = f"obs://{store.bucket}/{prefix}"
    content = store.get(index_key(prefix))
    if content is None:
        raise EmptyMirrorError(f"{url} holds no mirror of a run ({index_key(prefix)} is missing)")
    index = Index.decode(content, url)
    if not index.is_run:
        missing = " and ".join(name for name in IDENTITY if name not in index.files)
        raise EmptyMirrorError(f"{url} holds no run yet: {missing} never sent; start the run anew")
    return index


def fetch(store: ObjectStore, prefix: str, folder: Path, log: Callable[[str], None]) -> Index:
    """Fetches a run; a second call continues where the first was cut off.

    Args:
        store: The bucket.
        prefix: Where in it.
        folder: The run folder.
        log: Takes a line for the user.

    Returns:
        The mirror's index.

    Raises:
        ToolkitError: The folder holds another run, the disk is too small, or an object is damaged.
    """
    index = read_index(store, prefix)
    _refuse_another_run(index, folder, f"obs://{store.bucket}/{prefix}")
    # One that is older than those here and not to be submitted would only be deleted again.
    wanted = wanted_steps(index, saved_steps.find_saves(folder).complete)
    states = {name: _state(folder / name, file) for name, file in index.files.items()
              if file.step is None or file.step in wanted}
    missing = [name for name, state in states.items() if state == "missing"]
    require_room(folder, sum(index.files[name].bytes for name in missing), "the mirror's files")
    lost = []
    # The config last: without it the folder is not a run, so nothing starts from half of one.
    for name in sorted(missing, key=lambda name: name == RESOLVED_CONFIG):
        file = index.files[name]
        try:
            _fetch_file(store, key_of(prefix, object_of(name, file.sha256)), file, folder, name)
        except UnreachableError:
            raise
        except ToolkitError as error:
            if file.step is not None or name in IDENTITY:
                raise
            log(f"not fetched: {name}: {error}")
            lost.append(name)
            continue
        log(f"fetched: {name} ({file.bytes:,} bytes)")
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    kept = [name for name, state in states.items() if state == "other"]
    for name in kept:
        log(f"kept: {name} is here already with other content")
    there = len(states) - len(missing) - len(kept)
    log(f"{len(states)} file(s): {len(missing) - len(lost)} fetched, {there} there already, "
        f"{len(kept)} kept, {len(lost)} lost")
    return index


def _refuse_another_run(index: Index, folder: Path, url: str) -> None:
    run = read_run(folder)
    if run is not None:
        different = list(differences(index, run.settings))
    else:
        different = [str(path) for saves in (run_layout.checkpoint_dir(folder), run_layout.state_dir(folder))
                     for path in run_layout.rank_files(saves)
                     if path.relative_to(folder).as_posix() not in index.files]
    if different:
        raise ToolkitError(f"{folder} holds another run than {url}: {'; '.join(different)}; fetch into "
                           "another folder")


def _state(path: Path, file: Mirrored) -> str:
    """`equal`, `other`, or `missing`; a truncated checkpoint counts as missing."""
    if not path.exists():
        return "missing"
    if path.stat().st_size == file.bytes and sha256_of(path) == file.sha256:
        return "equal"
    if path.suffix == ".ckpt":
        try:
            saved_steps.complete_step(path)
        except ToolkitError:
            return "missing"
    return "other"


def _fetch_file(store: ObjectStore, key: str, file: Mirrored, folder: Path, name: str) -> None:
    partial = folder / PARTIAL / file.sha256
    partial.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        store.download(key, partial, file.bytes)
        found = sha256_of(partial)
        if found == file.sha256:
            final = folder / name
            final.parent.mkdir(parents=True, exist_ok=True)
            publish(partial, final)
            return
        partial.unlink()
    raise ToolkitError(f"obs://{store.bucket}/{key} is damaged: sha256 {found}, the mirror's index says "
                       f"{file.sha256}; nothing was written under the name {name}")
