"""`bash scripts/setup.sh`: confirms a complete environment at once; all else is in command.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from research_internlm.installing.environment import Environment
from research_internlm.shared.errors import run_main


def main() -> None:
    """Says that the environment is complete, or hands over."""
    venv = Environment(Path(os.environ.get("VENV") or ".venv"))
    request = venv.request(own=False, pair=None)
    if not sys.argv[1:] and venv.is_complete(request):
        print(f"Set-up: {venv.folder} is complete ({venv.summary()})")
        return
    from research_internlm.installing import command  # takes as long again

    command.main(venv)


if __name__ == "__main__":
    run_main(main)
