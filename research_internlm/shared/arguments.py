"""Values with bounds, the same rule for a flag's text and for a value of a yaml or json file."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MOST = 1 << 53  # larger ones are not exact as floats; no count, size or seed of the toolkit comes near


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` to `most`.

    Args:
        least: The smallest accepted.
        most: The largest accepted; None for no limit.
    """
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    return _reader(int, lambda value: is_whole(value, least, most), f"a whole number {bounds}")


def number(above: float) -> Callable[[str], float]:
    """An argparse type: a finite number greater than `above`."""
    return _reader(float, lambda value: is_number(value, above) and value != above,
                   f"a finite number above {above:g}")


def place(text: str) -> Path:
    """An argparse type: a file or folder whose content leaves the machine, or arrives.

    Path("") is the current folder: with a shell variable that is not set, all of it would be sent.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give the current folder as .")
    return Path(text)


def _reader(kind: type, accepts: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r:.60} is not {wanted}")
        return value
    return read


def is_whole(value: Any, least: int, most: int | None = None) -> bool:
    """Whether a value is a whole number within bounds, _MOST where none is given; True and 8.0 are not."""
    return type(value) is int and least <= value <= (_MOST if most is None else most)


def is_number(value: Any, least: float = -math.inf) -> bool:
    """Whether a value is a finite number of at least `least`; True, nan and infinity are not."""
    return type(value) in (int, float) and -math.inf < value < math.inf and value >= least


def program(script: str) -> str:
    """What a usage line calls a command that a script of scripts/ starts.

    Args:
        script: The script, for a command that was not started as `internlm NAME`.
    """
    return sys.argv[0] if sys.argv[0].startswith("internlm ") else script
