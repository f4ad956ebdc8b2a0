"""Sending a growing run folder to its mirror, round by round.

Of the saves (full checkpoints and states) only rank 0's go: in data-parallel training every rank holds the
same bits and can continue from rank 0's file; they contain the adapter too, so the adapter-only files do not
go. Kept are the last and the five to submit, so the mirror stays as large as six checkpoints.
Everything is only read, and a file counts as finished when it is complete inside and was the same a round
before.

What is no longer wanted is removed, and so is what was started and never finished: the index lists it
before its first byte is sent. So the next machine finds everything that a lost one has left, and removes only
what a mirror of this run has put there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from research_internlm.mirroring.index import (
    INDEX,
    Index,
    Mirrored,
    index_key,
    key_of,
    object_of,
    read_run,
    refusal,
    wanted_steps,
)
from research_internlm.runs.saved_steps import complete_step
from research_internlm.shared import run_layout, secrets_scan
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of
from research_internlm.shared.run_layout import IDENTITY
from research_internlm.shared.schema import is_plain_path
from research_internlm.shared.staging import is_partial
from research_internlm.storage.multipart import MIB, Item, send_item
from research_internlm.storage.obs import ObjectStore

PART_SIZE = 16 * MIB
PARALLEL = 2  # parts at once; the machine is the training's
_TEXT = (".json", ".jsonl", ".yaml", ".log", ".txt", ".csv")
_GROWN = 1.1  # a log is sent again when it grew by a tenth, a checkpoint was sent, or the run ended
_Stamp = tuple[int, int]


class RefusedError(ToolkitError):
    """The mirror must not be written to; trying again does not help."""


@dataclass(frozen=True)
class Candidate:
    """A file that belongs into the mirror: path in the run folder, size and time, step of a checkpoint."""

    name: str
    stamp: _Stamp
    step: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stamp[0]

    @property
    def is_text(self) -> bool:
        """Whether it is small, may grow while it is read, and could hold a secret."""
        return self.name.endswith(_TEXT)


class Pusher:
    """Keeps a mirror like a run folder.

    Args:
        store: The bucket.
        prefix: Where in it.
        folder: The run folder; may not exist yet.
        log: Takes a line for the log.

    Attributes:
        safe_step: Step of the last checkpoint that an index in the bucket names, if a run can be made of it.
    """

    def __init__(self, store: ObjectStore, prefix: str, folder: Path, log: Callable[[str], None]) -> None:
        self.store, self.prefix, self.folder, self.log = store, prefix, folder, log
        self.index: Index | None = None
        self.safe_step = 0
        self._sent: dict[str, _Stamp] = {}
        self._unindexed: dict[str, _Stamp] = {}  # sent, but no index says so yet: not safe
        self._before: dict[str, _Stamp] = {}
        self._steps: dict[tuple[str, _Stamp], int | None] = {}  # headers already read
        self._withheld: dict[str, str] = {}

    def round(self, final: bool) -> bool:
        """Sends what is new and removes what is no longer wanted.

        Args:
            final: Whether nothing writes to the folder any more.

        Returns:
            Whether there was a run to look at.

        Raises:
            ToolkitError, OSError: It was interrupted; the next round continues. RefusedError: No round can.
        """
        run = read_run(self.folder)
        if run is None:
            return False
        if self.index is None:
            self.index = self._open(run)
        self.index.recipe, self.index.facts = run.recipe, run.facts
        self._withheld.clear()
        identity, checkpoints, texts = self._split(self.candidates())
        sent = [self._send_text(file) for file in identity]
        sent += [self._send(file) for file in checkpoints if self._is_settled(file, final)]
        self._before = {file.name: file.stamp for file in checkpoints}
        sent += [self._send_text(file) for file in texts if final or any(sent) or self._has_grown(file)]
        if self._drop_unwanted() or any(sent):
            self._write_index()
        self._clean({file.name for file in checkpoints if self._sent.get(file.name) != file.stamp})
        return True

    def candidates(self) -> list[Candidate]:
        """The files that belong into the mirror now, the most needed checkpoint first."""
        full, others = [], []
        checkpoints = {path for folder in (run_layout.checkpoint_dir(self.folder),
                                           run_layout.state_dir(self.folder))
                       for path in run_layout.rank_files(folder, 0)}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            with contextlib.suppress(FileNotFoundError):  # a dangling link, or retention was faster
                if path in checkpoints:
                    full.append(self._candidate(path, name, self._step(path, name)))
                elif _is_wanted_text(path, name):
                    others.append(self._candidate(path, name, None))
        full = [file for file in full if file.step is not None]
        if self.index is not None:
            wanted = wanted_steps(self.index, [file.step for file in full])
            full = [file for file in full if file.step in wanted]
        return [*sorted(full, key=lambda file: -file.step), *others]

    def unsafe(self) -> list[tuple[Candidate, str]]:
        """Files of which the mirror lacks the present content, with the reason."""
        return [(file, self._withheld.get(file.name, "not sent"))
                for file in self.candidates() if self._sent.get(file.name) != file.stamp]

    def _open(self, run: Index) -> Index:
        url = f"obs://{self.store.bucket}/{self.prefix}"
        content = self.store.get(index_key(self.prefix))
        if content is None:
            return run
        index = Index.decode(content, url)
        last = max((file.step for file in self.candidates() if file.step), default=0)
        if reason := refusal(index, run.settings, last, url, self.folder):
            raise RefusedError(reason)
        return index

    @staticmethod
    def _candidate(path: Path, name: str, step: int | None) -> Candidate:
        status = path.stat()
        return Candidate(name, (status.st_size, status.st_mtime_ns), step)

    @staticmethod
    def _split(files: list[Candidate]) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
        """What makes it a run, checkpoints, other texts: the order in which they are needed."""
        texts = [file for file in files if file.is_text]
        return ([file for file in texts if file.name in IDENTITY],
                [file for file in files if not file.is_text],
                [file for file in texts if file.name not in IDENTITY])

    def _step(self, path: Path, name: str) -> int | None:
        """Step inside a complete checkpoint, else None."""
        key = name, self._candidate(path, name, None).stamp
        if key not in self._steps:
            try:
                self._steps[key] = complete_step(path)
            except ToolkitError as error:
                self._steps[key] = None
                self.log(f"not sent: {error}")
        return self._steps[key]

    def _is_settled(self, file: Candidate, final: bool) -> bool:
        if self._sent.get(file.name) == file.stamp:
            return False
        return final or self._before.get(file.name) == file.stamp

    def _has_grown(self, file: Candidate) -> bool:
        before = self._sent.get(file.name)
        return before is None or (before != file.stamp and (
            not file.name.endswith(".log") or file.size > before[0] * _GROWN))

    def _send(self, file: Candidate) -> bool:
        """Sends a finished checkpoint, and says so in the index before and after."""
        path = self.folder / file.name
        if reason := _reason_by_name(file.name):
            self._withheld[file.name] = reason
            return False
        try:
            sha256 = sha256_of(path)
            self.index.leftovers.append(object_of(file.name, sha256))
            self._write_index()
            self._put(path, file, sha256)
        except FileNotFoundError:  # retention was faster; the next round sees what is there now
            return False
        self._write_index()
        return True

    def _send_text(self, file: Candidate) -> bool:
        """Sends a copy, because a log grows while it is read."""
        if self._sent.get(file.name) == file.stamp:
            return False
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            shutil.copyfile(self.folder / file.name, copy)
            if reason := _reason_to_withhold(file.name, copy):
                self._withheld[file.name] = reason
                if file.name in IDENTITY:
                    raise RefusedError(f"{self.folder / file.name} cannot be sent ({reason}), and without it "
                                       "the rest is not a run; nothing is mirrored")
                self.log(f"not sent: {printable(file.name)}: {reason}")
                return False
            self._put(copy, file, sha256_of(copy))
        return True

    def _put(self, path: Path, file: Candidate, sha256: str) -> None:
        item = Item.of(path, key_of(self.prefix, object_of(file.name, sha256)))
        if (before := self.index.files.get(file.name)) is not None:
            self.index.leftovers.append(object_of(file.name, before.sha256))
        self.index.leftovers.append(object_of(file.name, sha256))  # until it is sent
        sent = send_item(self.store, item, sha256, PART_SIZE, PARALLEL, overwrite=True,
                         bar=tqdm(disable=True))
        self.index.files[file.name] = Mirrored(item.size, sha256, file.step)
        self._unindexed[file.name] = file.stamp
        self.log(f"sent: {file.name} ({item.size:,} bytes, {sent:,} sent)"
                 + (f", step {file.step:,}" if file.step is not None else ""))

    def _drop_unwanted(self) -> bool:
        """Takes checkpoints off the index that need no longer be kept; returns whether there were any."""
        wanted = wanted_steps(self.index, ())
        gone = {name: file for name, file in self.index.files.items()
                if file.step is not None and file.step not in wanted}
        for name, file in gone.items():
            del self.index.files[name]
            self._sent.pop(name, None)
            self.index.leftovers.append(object_of(name, file.sha256))
        return bool(gone)

    def _write_index(self) -> None:
        named = {object_of(name, file.sha256) for name, file in self.index.files.items()}
        self.index.leftovers = [name for name in dict.fromkeys(self.index.leftovers) if name not in named]
        content = self.index.encode()
        self._refuse_secrets(content)
        self.store.put(index_key(self.prefix), content, hashlib.sha256(content).hexdigest())
        self._sent |= self._unindexed
        self._unindexed.clear()
        self.safe_step = self.index.last if self.index.is_run else 0

    def _refuse_secrets(self, content: bytes) -> None:
        """The index repeats the run's settings and the files' names, so it can hold what they hold."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            if found := next(secrets_scan.scan(file.name), None):
                raise RefusedError(f"the settings or file names of {self.folder} hold {found[1]} (line "
                                   f"{found[0]} of {INDEX}); nothing more is mirrored")

    def _clean(self, waiting: set[str]) -> None:
        """Removes the leftovers, finished or not; the index in the bucket no longer names them.

        Args:
            waiting: Checkpoints still to be sent: the upload of these that a killed pusher left is continued.
        """
        kept = [name for name in self.index.leftovers if name.rpartition(".")[0] in waiting]
        for name in self.index.leftovers:
            if name not in kept:
                self.store.abort_uploads(key_of(self.prefix, name))
                self.store.delete(key_of(self.prefix, name))
        self.index.leftovers = kept


def printable(name: str | Path) -> str:
    """A file's name for the terminal; those that are not UTF-8 with escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _reason_by_name(name: str) -> str | None:
    """Why the index may not name a file, or None."""
    if printable(name) != name:
        return "its name is not UTF-8; rename it"
    if not is_plain_path(name):
        return "its name holds a control character, a backslash or a drive; rename it"
    return None


def _reason_to_withhold(name: str, content: Path) -> str | None:
    if reason := _reason_by_name(name):
        return reason
    found = next(secrets_scan.scan(content), None)
    return found and f"line {found[0]} holds {found[1]}; remove it there"


def _is_wanted_text(path: Path, name: str) -> bool:
    # meta.json names MindFormers' last file, which need not be in the mirror; the step inside decides.
    # The mirror's own log grows with every round.
    return (path.suffix in _TEXT and path.is_file() and path.name not in (run_layout.MIRROR_LOG, INDEX)
            and not run_layout.in_checkpoints(name) and not is_partial(Path(name)))
