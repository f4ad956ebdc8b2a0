"""A generator in another process: same items, same errors, and a killed process is told."""

import os
import signal

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
