"""Tiny wheels."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, requires: Iterable[str] = (),
               files: Mapping[str, bytes] | None = None) -> None:
    """A wheel by the binary distribution format, with one empty module and other files."""
    folder.mkdir(exist_ok=True)
    name = name.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    content = {
        f"{name}/__init__.py": b"", **(files or {}),
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, ""]).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{place},sha256={_digest(data)},{len(data)}" for place, data in content.items()]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for place, data in content.items():
            archive.writestr(place, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
