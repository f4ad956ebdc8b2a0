"""Which Python and which pair an environment gets, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from research_internlm.installing.interpreters import Interpreter
from research_internlm.shared import versions
from research_internlm.shared.errors import ToolkitError


class Decision(NamedTuple):
    """What an environment is made of."""

    python: Interpreter
    pair: versions.Pair
    shared: bool  # the Python's own MindSpore is used (--system-site-packages)
    reason: str


def pair_named(mindformers: str) -> versions.Pair:
    """The pair of `--pair`.

    Raises:
        ToolkitError: It is outside the window.
    """
    pair = versions.pair_with(mindformers=mindformers)
    if pair is None:
        raise ToolkitError(f"--pair {mindformers}: {versions.unsupported_mindformers(mindformers)}")
    return pair


def decide(found: Iterable[Interpreter], pair: versions.Pair | None = None, own: bool = False,
           release: str | None = None) -> Decision:
    """Takes a supported MindSpore that is there already, else the first suitable Python.

    A second MindSpore over an image's is 3.4 GB, and not the one that its CANN was tested with.

    Args:
        found: The machine's Pythons, in the order they are preferred.
        pair: Only this pair; None for any that is there, else the newest.
        own: A pair of its own even where one is there.
        release: Only Pythons of this release, e.g. 3.11.

    Raises:
        ToolkitError: No Python is suitable.
    """
    found = list(found)
    suitable = [python for python in found
                if not python.problem and release in (None, python.release)]
    if not suitable:
        wanted = f"Python {release}" if release else "Python {}.{} to {}.{}".format(*versions.PYTHONS[0],
                                                                                  *versions.PYTHONS[-1])
        looked = "; ".join(f"{python.executable} is {python.problem or python.release}" for python in found)
        raise ToolkitError(f"no {wanted} that MindSpore can be installed for ({looked or 'none runs here'}): "
                           "install one, or name it: PYTHON=/path/to/python3.11 bash scripts/setup.sh")
    if not own:
        sharing = [python for python in suitable if python.pair and pair in (None, python.pair)]
        if sharing:
            best = min(sharing, key=lambda python: versions.PAIRS.index(python.pair))
            return Decision(best, best.pair, True, "it is there already; --own installs another")
    if own:
        reason = "--own was given"
    else:
        others = [f"{python.executable} has MindSpore {python.packages['mindspore'][0]}"
                  for python in found if "mindspore" in python.packages and not python.is_venv]
        which = f"MindSpore {pair.mindspore}" if pair else "a supported MindSpore"
        reason = f"no Python here has {which} to share" + (f" ({', '.join(others)})" if others else "")
    return Decision(suitable[0], pair or versions.PAIRS[0], False, reason)
