"""How the toolkit speaks to its user when something is wrong.

An error of the user's (a wrong path, a wrong file, settings that disagree) is a `ToolkitError`: one
line that says what was asked, what was found, where, and what to do. Entry points turn it into exit
code 2 without a traceback; anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator

from research_internlm.shared.terminal import printable, protect_streams

USER_ERROR_EXIT_CODE = 2
# Only a write fails with these; a refused permission can be a read's too.
_WRITE_ERRORS = {errno.ENOSPC: "free space", errno.EDQUOT: "free space", errno.EROFS: "choose another place"}

# What Python says of paths that it passes to no system call, and what to tell the user.
_BAD_PATHS = {"Symlink loop": "the link leads back to itself; name the file it should lead to",
              "embedded null": "a path must not hold the character NUL; correct it",
              "has an empty name": "the name of a file was expected"}


class ToolkitError(Exception):
    """A mistake the user can correct; its text is the whole message."""


@contextlib.contextmanager
def added_to(problems: list[str]) -> Iterator[None]:
    """Adds what a check raises to the problems found before, so that all are said at once.

    A wrong setting among them can stop a later check that computes with it; that says nothing new.
    """
    try:
        yield
    except ToolkitError as error:
        problems.append(str(error))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        if not problems:
            raise


def run_main(main: Callable[[], int | None]) -> None:
    """Runs an entry point and leaves the process with the right exit code.

    Args:
        main: The entry point; returns an exit code, or None for success.
    """
    protect_streams()
    try:
        code = main()
    except ToolkitError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted: nothing was written under a final name", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None and error.errno not in _WRITE_ERRORS:  # no path: not the user's to mend
            raise
        fail(_describe(error))
    except (RuntimeError, ValueError) as error:
        hint = next((hint for words, hint in _BAD_PATHS.items() if words in str(error)), None)
        if hint is None:
            raise
        fail(f"{error}: {hint}")
    sys.exit(code or 0)


def _describe(error: OSError) -> str:
    """What the system refused to do, where, and what to do about it."""
    places = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    if error.errno in _WRITE_ERRORS:
        return (f"cannot write {places or 'an output file'}: {error.strerror}{_disk_of(error.filename)}; "
                f"{_WRITE_ERRORS[error.errno]} or choose another output folder, then run the same command "
                "again (no partial file was left under a final name)")
    return f"cannot use {places}: {error.strerror}; check the path and its permissions"


def _disk_of(path: str | bytes | None) -> str:
    """The free space of the file system that holds a path, where that can be told."""
    if path is None:
        return ""
    folder = os.path.abspath(os.fsdecode(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    disk = os.statvfs(folder)
    mount = folder
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    return f" (the disk at {mount} has {disk.f_bavail * disk.f_frsize / 1e6:,.1f} MB free)"


def fail(message: str) -> None:
    """Prints one error line and ends the process with exit code 2."""
    print("error: " + printable(" ".join(message.splitlines())), file=sys.stderr)
    sys.exit(USER_ERROR_EXIT_CODE)
