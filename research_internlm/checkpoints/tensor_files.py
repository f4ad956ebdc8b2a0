"""Tensors in .ckpt and .safetensors files, read and written a few rows at a time, without MindSpore.

A safetensors file is a JSON header and the tensors after it; a .ckpt is described in ckpt_format. Both
can be written front to back, so the memory needed is one block of rows, whatever the size of the file.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from research_internlm.checkpoints import ckpt_format, dtypes
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file, require_room
from research_internlm.shared.parsing import parse_json

BLOCK_BYTES = 4 << 20  # larger ones leave the caches and cost fresh pages: 2.5 times the CPU time at 32 MB
SUFFIXES = {"ckpt": ".ckpt", "safetensors": ".safetensors"}


def format_of(path: str | os.PathLike, stated: str | None = None) -> str:
    """`ckpt` or `safetensors`, by the file name or as stated.

    Args:
        path: The file.
        stated: The format the user asked for, under which any name will do but one that says the other.

    Raises:
        ToolkitError: The name says neither and nothing is stated, or it contradicts what is.
    """
    found = next((name for name, suffix in SUFFIXES.items() if Path(path).suffix == suffix), None)
    if stated and found not in (None, stated):
        raise ToolkitError(f"--format {stated} asks for another format than the name {path} says, by which "
                           f"later steps read it; name it *{SUFFIXES[stated]} or leave --format out")
    if not stated and not found:
        raise ToolkitError(f"{path} ends neither in .ckpt nor in .safetensors; name the file after its "
                           "format (from-hf has --format for other names)")
    return stated or found


def _format_to_read(path: Path) -> str:
    """As format_of, but a file named after neither is told by its content."""
    if path.suffix in SUFFIXES.values():
        return format_of(path)
    with open(path, "rb") as file:
        return "safetensors" if file.read(9)[8:] == b"{" else "ckpt"


class TensorFile:
    """A checkpoint opened for reading; only its header is read at first.

    Args:
        path: A .ckpt or .safetensors file.
        what: What it is to the user, for messages.

    Attributes:
        entries: Name to Entry, in the file's order.

    Raises:
        ToolkitError: Missing, truncated, or of another format.
    """

    def __init__(self, path: str | os.PathLike, what: str = "the checkpoint") -> None:
        self.path = require_file(path, what)
        size = self.path.stat().st_size
        kind = _format_to_read(self.path)
        parse = {"ckpt": ckpt_format.read_entries, "safetensors": _safetensors_entries}[kind]
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)
        try:
            self.entries: dict[str, Entry] = parse(self._file, size)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, ToolkitError) as error:
            self._file.close()
            raise ToolkitError(f"{what} {path} ({size:,} bytes) is truncated, damaged or not a {kind} file: "
                               f"{error}; download or write it again") from None

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a tensor, shape (stop - start, ...)."""
        entry = self.entries[name]
        array = np.empty((stop - start, *entry.shape[1:]), entry.dtype)
        row_bytes = array.nbytes // max(stop - start, 1)
        target = memoryview(array.reshape(-1).view(np.uint8))
        position = 0  # of the piece within the tensor
        for offset, nbytes in entry.pieces:
            low, high = max(start * row_bytes, position), min(stop * row_bytes, position + nbytes)
            if low < high:
                self._file.seek(offset + low - position)
                if self._file.readinto(target[low - start * row_bytes:high - start * row_bytes]) < high - low:
                    raise ToolkitError(f"{self.path} ends inside {name}: it was cut while being read")
            position += nbytes
        return array

    def read(self, name: str) -> np.ndarray:
        """A whole tensor; a scalar has no dimension."""
        shape = self.entries[name].shape
        return self.rows(name, 0, shape[0] if shape else 1).reshape(shape)


def row_blocks(entry: Entry, ranges: Iterable[tuple[int, int]] | None = None) -> Iterator[tuple[int, int]]:
    """Cuts row ranges of a tensor into (start, stop) blocks of about BLOCK_BYTES.

    Args:
        entry: The tensor, of one dimension or more.
        ranges: Row ranges in order; None for all rows.
    """
    row_bytes = entry.nbytes // max(entry.shape[0], 1)
    step = max(BLOCK_BYTES // max(row_bytes, 1), 1)
    for start, stop in [(0, entry.shape[0])] if ranges is None else ranges:
        for first in range(start, stop, step):
            yield first, min(first + step, stop)


def write_tensors(path: Path, layout: Mapping[str, Entry], blocks_of: Callable[[str], Iterable[np.ndarray]],
                  framework: str = "ms", file_format: str | None = None) -> None:
    """Writes tensors in the layout's order, block by block.

    Args:
        path: File to make.
        layout: Name to shape and type.
        blocks_of: Gives the consecutive row blocks of a named tensor, in the layout's type.
        framework: `format` in a safetensors file's metadata: `ms`, or `pt` for transformers.
        file_format: `ckpt` or `safetensors`; None goes by the path's suffix.

    Raises:
        ToolkitError: The disk has no room for them.
        ValueError: The blocks of a tensor do not add up to its size.
    """
    is_ckpt = format_of(path, file_format) == "ckpt"
    total = sum(entry.nbytes for entry in layout.values())
    require_room(path.parent, total, f"the tensors of {path.name}")
    with open(path, "xb") as file, tqdm(total=total, desc=path.name, unit="B", unit_scale=True,
                                        delay=2) as bar:
        if not is_ckpt:
            file.write(_safetensors_header(layout, {"format": framework}))
        for name, entry in layout.items():
            written = 0
            for block in blocks_of(name):
                content = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
                if is_ckpt:
                    file.write(ckpt_format.value_start(name, entry, content.nbytes))
                file.write(memoryview(content))
                written += content.nbytes
                bar.update(content.nbytes)
            if written != entry.nbytes:
                raise ValueError(f"{name}: {written} of {entry.nbytes} bytes were given")


def _safetensors_entries(file: BinaryIO, size: int) -> dict[str, Entry]:
    length = int.from_bytes(file.read(8), "little")
    if 8 + length > size:
        raise ValueError("the header ends beyond the file")
    header = parse_json(file.read(length).decode(), "its header")
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    entries = {}
    for name, facts in header.items():
        begin, end = facts["data_offsets"]
        entries[name] = Entry(tuple(facts["shape"]), dtypes.FROM_SAFETENSORS.get(facts["dtype"]),
                              [(start + begin, end - begin)])
    _require_whole(entries, start, size)
    return entries


def _require_whole(entries: Mapping[str, Entry], start: int, size: int) -> None:
    """Checks that the tensors fill the bytes after a safetensors header: no gap, no overlap, right sizes.

    Raises:
        ValueError: They do not, as the format demands; every tensor concerned is named.
    """
    wrong, expected = [], start
    for name, entry in sorted(entries.items(), key=lambda item: item[1].pieces):
        (begin, nbytes), = entry.pieces
        if begin != expected:
            wrong.append(f"{name} begins at byte {begin:,}, the tensor before it ends at {expected:,}")
        if any(not isinstance(length, int) or length < 0 for length in entry.shape):
            wrong.append(f"{name} has the shape {entry.shape}")
        elif nbytes < 0 or (entry.dtype is not None and nbytes != entry.nbytes):
            wrong.append(f"{name} has {nbytes:,} bytes, which is not what its shape and type take")
        expected = begin + nbytes
    if expected != size:
        wrong.append(f"the tensors end at byte {expected:,}")
    if wrong:
        raise ValueError("; ".join(wrong))


def _safetensors_header(layout: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, entry in layout.items():
        begin, end = end, end + entry.nbytes
        header[name] = {"dtype": dtypes.TO_SAFETENSORS[entry.dtype], "shape": list(entry.shape),
                        "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
    return struct.pack("<Q", len(text)) + text
