"""A generator in another process: same items, same errors, and a killed process is told."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from preprocess.mindrecord.background import in_background
from research_internlm.shared.errors import ToolkitError


def test_items_come_in_order_and_more_than_are_made_ahead():
    assert list(in_background(lambda: iter(range(50)), "counting", ahead=2)) == list(range(50))


def test_they_are_made_in_another_process():
    assert next(in_background(lambda: iter([os.getpid()]), "counting")) != os.getpid()


def test_an_error_arrives_behind_the_items_before_it():
    def make():
        yield 1
        raise ToolkitError("item 2 is odd")

    items = in_background(make, "counting")
    assert next(items) == 1
    with pytest.raises(ToolkitError, match="item 2 is odd"):
        next(items)


def test_a_killed_process_is_told():
    def make():
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)

    items = in_background(make, "counting")
    with pytest.raises(ToolkitError, match=r"counting was ended \(exit code -9"):
        list(items)


def test_leaving_early_ends_the_process():
    items = in_background(lambda: iter([os.getpid(), *range(99)]), "counting", ahead=1)
    process = next(items)
    items.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_process_ends_with_its_parent(tmp_path):
    def make():
        (tmp_path / "process").write_text(str(os.getpid()))
        yield 1
        time.sleep(600)  # busy, and asks nobody whether it is still wanted

    asking = os.fork()
    if asking == 0:
        list(in_background(make, "counting"))
        os._exit(1)
    wait_until(lambda: (tmp_path / "process").exists() and (tmp_path / "process").read_text())
    process = int((tmp_path / "process").read_text())
    os.kill(asking, signal.SIGKILL)
    os.waitpid(asking, 0)
    try:
        wait_until(lambda: has_ended(process))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def has_ended(process):
    """Whether a process is gone, or only waits for its new parent to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
