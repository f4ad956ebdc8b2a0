"""What this machine knows of the multipart uploads it started: the sha256 of the file of each.

The server tells which parts it holds, but not for which file an upload was started; one that continues with
another file's bytes would be completed under the first one's checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

_NOT_KNOWN = (OSError, RuntimeError)  # the latter for a user without a name and a home


def _file_of(upload_id: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "research_internlm" / "uploads" / hashlib.sha256(upload_id.encode()).hexdigest()


def remember(upload_id: str, sha256: str) -> None:
    """Notes what an upload is of; where it cannot be written, a killed upload starts anew."""
    with contextlib.suppress(*_NOT_KNOWN):
        file = _file_of(upload_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(sha256, encoding="ascii")


def recall(upload_id: str) -> str | None:
    """The sha256 of the file of an upload, or None where another machine started it."""
    with contextlib.suppress(*_NOT_KNOWN):
        return _file_of(upload_id).read_text(encoding="ascii")
    return None


def forget(upload_id: str) -> None:
    """Drops the note of an upload that has ended."""
    with contextlib.suppress(*_NOT_KNOWN):
        _file_of(upload_id).unlink()
