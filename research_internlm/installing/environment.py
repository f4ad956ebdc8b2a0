"""One environment and the record of what was installed into it.

Scripts ask at every start whether it is complete, so this module imports little.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from research_internlm.installing import ROOT


class Request(NamedTuple):
    """What was asked of an environment, now or when it was made."""

    own: bool
    pair: str | None  # a MindFormers release


class Environment:
    """A virtual environment and its record, the file `.installed-from`.

    Args:
        folder: Its folder; a relative one starts at the project's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = ROOT / folder
        self.python = self.folder / "bin/python"
        self.record_file = self.folder / ".installed-from"

    def record(self) -> dict[str, Any]:
        """What the last set-up wrote; empty where no set-up came to its end."""
        try:
            found = json.loads(self.record_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def request(self, own: bool, pair: str | None) -> Request:
        """The request of now; what it leaves open is as it was when the environment was made."""
        record = self.record()
        return Request(own or record.get("own", False), pair or record.get("pair"))

    def is_complete(self, request: Request) -> bool:
        """Whether all that this request needs is there; scripts ask at every start, so it must be quick."""
        return self.is_installed(request) and self.runs()

    def summary(self) -> str:
        """Versions, for a person."""
        return self.record()["summary"]

    def is_installed(self, request: Request) -> bool:
        """Whether all packages are there, whether or not its Python is."""
        record = self.record()
        return (record.get("sources") == sources() and Request(record["own"], record["pair"]) == request
                and all(map(os.path.exists, record["packages"])))

    def runs(self) -> bool:
        """Whether its Python is there."""
        try:
            return not subprocess.run([self.python, "-S", "-c", ""], stderr=subprocess.DEVNULL,
                                      check=False).returncode
        except OSError:
            return False


def sources() -> str:
    """What the requirements are read from."""
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()
