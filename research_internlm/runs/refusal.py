"""A command that is refused by its checks leaves no folder behind that only the checks made."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from research_internlm.shared.errors import ToolkitError


@contextlib.contextmanager
def without_traces(output: Path, *traces: Path) -> Iterator[None]:
    """Removes an output folder that the body made, where the body is refused.

    A folder that was there before, or that holds more than the traces, is left as it is.

    Args:
        output: The folder.
        *traces: What checks themselves leave in it: a lock, MindFormers' log.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        yield
    except (ToolkitError, KeyboardInterrupt):
        if made and output.is_dir() and set(output.iterdir()) <= set(traces):
            for trace in traces:
                shutil.rmtree(trace) if trace.is_dir() else trace.unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise
