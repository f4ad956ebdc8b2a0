"""A folder beside an output in which one process makes it, and from which it gets its final name.

`.partial-NAME.d` lies beside the output NAME. Its file `owner` stays locked (flock) while the process that
works there lives: the system releases the lock however that process ends. So a folder whose lock is free was
left by a dead process. The next process that makes NAME removes what it holds; where the dead one had begun
to give its results their final names, it gives the rest of them their names first.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm.shared.errors import ToolkitError

_PREFIX, _SUFFIX = ".partial-", ".d"  # the suffix hides NAME's own from who looks for *.ckpt or *.json
_OWNER, _NEW, _REPLACED, _COMMIT, _DONE = "owner", "new", "replaced", "commit.json", "done.json"
_PATIENCE = 20.0  # seconds; who holds the lock while a single file is written is soon done
_POLL = 0.02
_held: set[int] = set()  # descriptors of locks


def is_partial(path: Path) -> bool:
    """Whether a path lies in a folder of unfinished outputs, which no reader may look into."""
    return any(part.startswith(_PREFIX) for part in path.parts)


@dataclass(frozen=True)
class Stage:
    """The folder of unfinished outputs that this process owns.

    Attributes:
        output: The output it is named after; all final names are in the same folder.
        folder: The folder.
        recovered: Whether the results that have the final names are those of a run that was killed before
            it ended.
    """

    output: Path
    folder: Path
    recovered: bool = False

    @property
    def new(self) -> Path:
        """Where files are written, under their final names and on the same file system."""
        return self.folder / _NEW

    def publish(self, names: Sequence[str], stale: Sequence[str] = (), kept: Mapping[str, str] | None = None
                ) -> None:
        """Gives files and folders their final names: from outside all old ones are seen, or all new ones.

        Between the two some may be missing, but old and new never lie beside each other. A kill in between
        is made good by the next process that takes the stage.

        Args:
            names: What `new` holds, in the order in which it appears; it disappears the other way round, so
                the last one, a manifest, vouches for all.
            stale: Other final names that belong to the old results and go with them.
            kept: Final names whose old file is not removed but renamed -> their new name.
        """
        for name in names:
            _synchronize(self.new / name)
        draft = self.folder / f"{_COMMIT}.draft"
        with open(draft, "w", encoding="utf-8") as file:
            json.dump({"names": [*names], "stale": [*stale], "kept": dict(kept or {})}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.folder / _COMMIT)
        self.finish()

    def finish(self) -> bool:
        """Does what is left to do of `publish`; returns whether its run had no time to end."""
        commit = self.folder / _COMMIT
        if not commit.exists():
            return (self.folder / _DONE).exists()
        plan = json.loads(commit.read_text("utf-8"))
        place = self.output.parent
        waiting = [name for name in plan["names"] if os.path.lexists(self.new / name)]
        for name, other in plan["kept"].items():
            if name in waiting and os.path.lexists(place / name):
                os.replace(place / name, place / other)
        for name in (*reversed(waiting[1:]), *plan["stale"]):  # the first one is replaced in one step
            self._remove(place / name)
        for name in waiting:
            if (place / name).is_dir():
                self._remove(place / name)
            os.replace(self.new / name, place / name)
        os.replace(commit, self.folder / _DONE)
        return True

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():  # cannot be removed in one step
            shutil.rmtree(self.folder / _REPLACED, ignore_errors=True)
            os.replace(path, self.folder / _REPLACED)
        else:
            path.unlink(missing_ok=True)


def _synchronize(path: Path) -> None:
    for file in (path.rglob("*") if path.is_dir() else (path,)):
        if file.is_file():
            with open(file, "rb") as content:
                os.fsync(content.fileno())


@contextlib.contextmanager
def staging(output: str | os.PathLike, patience: float = _PATIENCE) -> Iterator[Path]:
    """A folder to write one output in; `files.publish` gives it its final name.

    It is gone at the end whatever happens, SIGTERM included.

    Args:
        output: What is made.
        patience: Seconds to wait while another process makes it.

    Raises:
        ToolkitError: Another process is making it.
    """
    with stage_of(output, patience) as stage:
        yield stage.new


@contextlib.contextmanager
def stage_of(output: str | os.PathLike, patience: float) -> Iterator[Stage]:
    """As `staging`, for results of several files."""
    output, owner = Path(output), os.getpid()
    made = [folder for folder in output.parents if not folder.exists()]
    with _terminated_as_exit():
        folder, lock = _take(output, patience)
        try:
            stage = Stage(output, folder)
            stage = Stage(output, folder, recovered=stage.finish())
            _empty(folder, but=(_OWNER, _DONE))
            stage.new.mkdir()
            yield stage
        except OSError as error:
            if error.filename is None:  # a write does not say which file it was for
                error.filename = str(output.parent)
            raise
        finally:
            if os.getpid() == owner:  # in a forked child that leaves through here all is the parent's
                _give_back(folder, lock)
                for parent in made:  # of a refused command nothing stays
                    with contextlib.suppress(OSError):
                        parent.rmdir()


def _take(output: Path, patience: float) -> tuple[Path, int | None]:
    """Makes or takes over the folder, and locks it until the process ends.

    Returns:
        The folder and the descriptor of its lock. Where the file system knows no locks, a folder that nobody
        else uses, and None.
    """
    folder = output.with_name(_PREFIX + output.name + _SUFFIX)
    deadline = time.monotonic() + patience
    while True:
        if folder.is_symlink():
            raise ToolkitError(f"{folder} is a link, but unfinished outputs are made there: remove it")
        with contextlib.suppress(FileExistsError):  # exist_ok looks twice; its owner may remove it in between
            folder.mkdir(parents=True)
        try:
            lock = os.open(folder / _OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # its owner has just removed it
            continue
        _held.add(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(folder / _OWNER, lock):
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return folder, lock
            _close(lock)
        except BlockingIOError:
            owner = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            _close(lock)
            if time.monotonic() >= deadline:
                raise ToolkitError(f"{output} is being made by {owner}: wait until it has ended, or name "
                                   "another output") from None
            time.sleep(_POLL)
        except OSError:
            _give_back(folder, lock)
            own = tempfile.mkdtemp(_SUFFIX, folder.name.removesuffix(_SUFFIX) + ".", output.parent)
            return Path(own), None


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name; its owner may have removed it before it gave the lock back."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def _empty(folder: Path, but: Sequence[str]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in but:
            path.unlink()


def _give_back(folder: Path, lock: int | None) -> None:
    with contextlib.suppress(OSError):
        _empty(folder, but=(_OWNER, _DONE))
        _empty(folder, but=(_OWNER,))  # the last thing that a kill could fall before
        (folder / _OWNER).unlink(missing_ok=True)
        folder.rmdir()
    if lock is not None:
        _close(lock)


def _close(lock: int) -> None:
    _held.discard(lock)
    os.close(lock)


def _close_all() -> None:
    """A forked child would keep the locks of its parent when that ends."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_all)


@contextlib.contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """Lets SIGTERM end the process through its `finally` blocks, where it would end it on the spot.

    Only while there is something to clean up: a process that is busy in C code must stay killable.
    """
    if threading.current_thread() is not threading.main_thread() or (
            signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL):
        yield
        return
    owner = os.getpid()

    def leave(number: int, _: Any) -> None:
        if os.getpid() == owner:
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a forked worker has nothing to clean up
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
