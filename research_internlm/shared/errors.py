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

USER_ERROR_EXIT_CODE = 2
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class ToolkitError(Exception):
    """A mistake the user can mend; its text is the whole message."""


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
        if error.filename is None and error.errno not in _DISK_ERRORS:  # no path: not the user's to mend
            raise
        fail(_describe(error))
    sys.exit(code or 0)


def _describe(error: OSError) -> str:
    """What the system refused to do, where, and what to do about it."""
    if error.errno in _DISK_ERRORS:
        return (f"cannot write {error.filename or 'an output file'}: {error.strerror}; free space or choose "
                "another output folder, then run the same command again (no partial file was left behind)")
    places = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"cannot use {places}: {error.strerror}; check the path given on the command line"


def fail(message: str) -> None:
    """Prints one error line and ends the process with exit code 2."""
    print("error: " + " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(USER_ERROR_EXIT_CODE)
