"""Names, shapes and step counters of a MindSpore .ckpt, read without MindSpore and without the weights.

A .ckpt is a protocol buffer (mindspore/train/checkpoint.proto): a sequence of values, each a tag and a
tensor of dims, type and content. Contents of more than a few bytes are skipped, so a 15 GB file takes
milliseconds. A length that reaches beyond the end of the file is how a truncated file is recognised.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from research_internlm.errors import ToolkitError

_VARINT, _BYTES = 0, 2  # wire types
_SCALAR_BYTES = 8
_SCALAR_FORMATS = {"Int32": "<i", "Int64": "<q", "Float32": "<f", "Float64": "<d"}
_LORA_A, _LORA_B = ".mindpet_delta_lora_a", ".mindpet_delta_lora_b"
_CHECKSUM = b"crc_num"  # written bare behind the last value


@dataclass(frozen=True)
class Entry:
    """One value of a checkpoint.

    Attributes:
        shape: Dimensions; empty for a scalar.
        dtype: MindSpore's name of the type, e.g. `Float32`.
        scalar: The number itself where the content is no longer than 8 bytes, else None.
    """

    shape: tuple[int, ...]
    dtype: str
    scalar: float | int | None


def read_header(path: str | os.PathLike) -> dict[str, Entry]:
    """Reads what a checkpoint holds.

    Args:
        path: A .ckpt file.

    Returns:
        Name -> entry, in the file's order. A weight that MindSpore cut into slices has its first.

    Raises:
        ToolkitError: Truncated, or not a MindSpore checkpoint.
    """
    path = Path(path)
    size = path.stat().st_size
    entries: dict[str, Entry] = {}
    with open(path, "rb") as file:
        try:
            for number, end in _fields(file, size):
                if number != 1:
                    raise ValueError("unknown field")
                name, entry = _value(file, end)
                entries.setdefault(name, entry)
        except (ValueError, EOFError, UnicodeDecodeError) as error:
            raise ToolkitError(f"{path} ({size:,} bytes) is truncated or no MindSpore .ckpt ({error} near "
                               f"byte {file.tell():,}); use the checkpoint before it") from None
    if not entries:
        raise ToolkitError(f"{path} is empty; use the checkpoint before it")
    return entries


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Fields of a message that ends at `end`: (number, end of its bytes), the reader at the first of them.

    A plain integer, as dims are, comes as (-number, its value).
    """
    while file.tell() < end:
        key = _varint(file)
        if key & 7 == _VARINT:
            yield -(key >> 3), _varint(file)
            continue
        if key & 7 != _BYTES:
            if _is_checksum(file):
                return
            raise ValueError("unknown wire type")
        stop = _varint(file) + file.tell()
        if stop > end:
            raise EOFError("the file ends inside a value")
        yield key >> 3, stop
        file.seek(stop)


def _is_checksum(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_CUR)
    return file.read(len(_CHECKSUM)) == _CHECKSUM


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte:
            raise EOFError("the file ends inside a length")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _value(file: BinaryIO, end: int) -> tuple[str, Entry]:
    name, entry = "", Entry((), "", None)
    for number, stop in _fields(file, end):
        if number == 1:
            name = file.read(stop - file.tell()).decode()
        elif number == 2:
            entry = _tensor(file, stop)
    return name, entry


def _tensor(file: BinaryIO, end: int) -> Entry:
    dims, dtype, content = [], "", b""
    for number, stop in _fields(file, end):
        if number == -1:
            dims.append(stop)
        elif number == 2:
            dtype = file.read(stop - file.tell()).decode()
        elif number == 3 and stop - file.tell() <= _SCALAR_BYTES:
            content = file.read(stop - file.tell())
    form = _SCALAR_FORMATS.get(dtype)
    scalar = struct.unpack(form, content)[0] if form and struct.calcsize(form) == len(content) else None
    return Entry(() if dims == [0] else tuple(dims), dtype, scalar)


def step_of(header: Mapping[str, Entry], path: str | os.PathLike) -> int:
    """The step a full training checkpoint was saved after, whatever its file name says.

    File names are wrong after a resume in the middle of an epoch (MindFormers 1.9.0), and `global_step`
    does not count steps whose gradients overflowed; `step_num` is right in both cases.

    Raises:
        ToolkitError: It has no step counter.
    """
    entry = header.get("step_num")
    if entry is None or entry.scalar is None:
        raise ToolkitError(f"{path} holds no step_num: no full training checkpoint of MindFormers, or "
                           "truncated")
    return int(entry.scalar)


def adapter_facts(header: Mapping[str, Entry]) -> dict[str, object]:
    """LoRA facts that the stored matrices themselves state.

    Returns:
        `lora_rank`, `target_modules` (sorted cell names, joined by a space), `trainable` (parameters);
        empty where the checkpoint holds no adapter.
    """
    a = {name: entry.shape for name, entry in header.items() if _is_weight(name, _LORA_A)}
    b = {name: entry.shape for name, entry in header.items() if _is_weight(name, _LORA_B)}
    if not a:
        return {}
    ranks = {shape[0] for shape in a.values()} | {shape[1] for shape in b.values()}
    return {
        "lora_rank": ranks.pop() if len(ranks) == 1 else " and ".join(map(str, sorted(ranks))),
        "target_modules": " ".join(sorted({name.removesuffix(_LORA_A).rsplit(".", 1)[-1] for name in a})),
        "trainable": sum(rows * columns for rows, columns in [*a.values(), *b.values()]),
    }


def _is_weight(name: str, suffix: str) -> bool:
    """Whether it is the matrix itself; the optimizer keeps moments under the same name with a prefix."""
    return name.endswith(suffix) and name.startswith("model.")
