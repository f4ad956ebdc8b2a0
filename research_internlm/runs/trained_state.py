"""Whether the workers of a run agree: the sha256 of the trained state that each logs at a save.

In data-parallel training only rank 0 writes checkpoints, so the files cannot show it (training/callbacks.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from research_internlm.runs.worker_logs import find_logs

_LINE = re.compile(r"trained state of step (\d+): sha256 ([0-9a-f]{64})")


def digests(run: str | Path) -> dict[int, dict[int, str]]:
    """Step -> rank -> sha256 of adapter, optimizer, loss scale and counters.

    Args:
        run: A run folder. Of a step that was done again the last line counts.

    Raises:
        ToolkitError: It holds no logs of workers.
    """
    found: dict[int, dict[int, str]] = {}
    for rank, files in find_logs(run).items():
        for file in files:
            for step, digest in _LINE.findall(file.read_text(encoding="utf-8", errors="replace")):
                found.setdefault(int(step), {})[rank] = digest
    return found
