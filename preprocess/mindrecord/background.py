"""Runs a generator in a process of its own, so that what it makes and what becomes of it share two cores."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from research_internlm.shared.errors import ToolkitError

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SECONDS = 1.0  # between looks at whether the other process still lives


def in_background(make: Callable[[], Iterable[T]], what: str, ahead: int = 8) -> Iterator[T]:
    """Starts a forked process that makes what `make()` yields, ahead of its being asked for.

    Args:
        make: Called in the other process; what it yields and raises must be picklable.
        what: What the process does, for messages.
        ahead: Items made before one is asked for.

    Returns:
        An iterator over the items. It raises a ToolkitError where the process was killed, and whatever
        `make()` raised.
    """
    # Forked, so that nothing is loaded or imported twice; MindSpore, whose threads a fork would lose, is
    # imported by the writer only after this has begun.
    context = multiprocessing.get_context("fork")
    made = context.Queue(ahead)
    process = context.Process(target=_fill, args=(made, make, os.getpid()), daemon=True)
    process.start()
    return _taken(made, process, what)


def _taken(made: Any, process: multiprocessing.Process, what: str) -> Iterator[Any]:
    try:
        while True:
            try:
                kind, value = made.get(timeout=_SECONDS)
            except queue.Empty:
                if process.is_alive():
                    continue
                raise ToolkitError(f"the process that was {what} was ended (exit code {process.exitcode}; "
                                   "out of memory?); run the same command again") from None
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        process.kill()
        process.join()


def _fill(made: Any, make: Callable[[], Iterable[Any]], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends this process
    _end_with(parent)
    gc.disable()  # a tenth of the time, for cycles that a short process hardly makes
    try:
        for item in make():
            made.put(("item", item))
        made.put(("end", None))
    except Exception as error:
        made.put(("error", error))


def _end_with(parent: int) -> None:
    """Has the system kill this process when the thread that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
