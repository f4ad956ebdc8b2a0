"""A command that is refused by its checks leaves behind nothing that only the checks made."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from research_internlm.shared.errors import ToolkitError


def without_traces(output: Path, *traces: Path) -> AbstractContextManager[None]:
    """Removes what the checks of a command made, where its body is refused.

    What was there at the time of this call is left alone, and so is a folder that holds anything else.

    Args:
        output: The output folder, which the checks make where it is missing.
        *traces: What they leave in it: a lock, MindFormers' log.
    """
    folders = [folder for folder in (output, *output.parents) if not folder.exists()]
    return _removing([trace for trace in traces if not trace.exists()], folders)


@contextlib.contextmanager
def _removing(traces: Sequence[Path], folders: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except (ToolkitError, KeyboardInterrupt):
        for trace in traces:
            shutil.rmtree(trace) if trace.is_dir() else trace.unlink(missing_ok=True)
        for folder in folders:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise
