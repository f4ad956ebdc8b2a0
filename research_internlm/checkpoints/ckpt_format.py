"""The MindSpore .ckpt format, read and written without MindSpore.

A .ckpt is a protocol buffer (mindspore/train/checkpoint.proto): `value` messages of a tag and a tensor of
dims, type and content. Consecutive values of one tag are pieces of one tensor (MindSpore cuts at 512 MB).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from research_internlm.checkpoints import dtypes
from research_internlm.checkpoints.dtypes import Entry

# Protocol buffer: a field is a key (number << 3 | wire type) and a number or a length with bytes after it.
_NUMBER, _BYTES = 0, 2
_CHECKSUM = b"crc_num"  # written bare after the last value


def read_entries(file: BinaryIO, size: int) -> dict[str, Entry]:
    """Reads names, shapes and places of all tensors; contents are skipped.

    Args:
        file: The .ckpt, opened for reading bytes.
        size: Its size in bytes.

    Raises:
        ValueError, EOFError: Truncated, or not a MindSpore checkpoint.
    """
    entries: dict[str, Entry] = {}
    for number, begin, end in _fields(file, 0, size):
        if number != 1:
            raise ValueError(f"unknown field at byte {begin:,}")
        name, entry = "", Entry((), None)
        for inner, start, stop in _fields(file, begin, end):
            if inner == 1:
                name = _text(file, start, stop)
            elif inner == 2:
                entry = _tensor(file, start, stop)
        entries.setdefault(name, entry)
        if entries[name] is not entry:
            entries[name].pieces += entry.pieces
    if not entries:
        raise ValueError("no tensors in it")
    for name, entry in entries.items():
        if entry.dtype is not None and sum(nbytes for _, nbytes in entry.pieces) != entry.nbytes:
            raise ValueError(f"a part of {name} is missing")
    return entries


def _tensor(file: BinaryIO, begin: int, end: int) -> Entry:
    dims: list[int] = []
    entry = Entry((), None)
    for number, start, stop in _fields(file, begin, end):
        if number == -1:
            dims.append(stop)
        elif number == 2:
            entry.dtype = dtypes.FROM_CKPT.get(_text(file, start, stop))
        elif number == 3:
            entry.pieces.append((start, stop - start))
    entry.shape = () if dims == [0] else tuple(dims)  # MindSpore's way to write a scalar
    return entry


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, begin, end of the bytes) of each field of a message; a number comes as (-number, 0, it)."""
    position = begin
    while position < end:
        file.seek(position)
        key = _varint(file)
        if key & 7 == _NUMBER:
            value = _varint(file)
            position = file.tell()  # before yielding: the caller moves the reader
            yield -(key >> 3), 0, value
        elif key & 7 == _BYTES:
            length = _varint(file)
            start, position = file.tell(), file.tell() + length
            if position > end:
                raise EOFError("the file ends inside a tensor")
            yield key >> 3, start, position
        else:
            file.seek(position)
            if file.read(len(_CHECKSUM)) == _CHECKSUM:
                return
            raise ValueError(f"unknown field at byte {position:,}")


def _text(file: BinaryIO, start: int, stop: int) -> str:
    file.seek(start)
    return file.read(stop - start).decode()


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


def value_start(name: str, entry: Entry, content_bytes: int) -> bytes:
    """The bytes in front of a (piece of a) tensor's content.

    Args:
        name: The tensor.
        entry: Its whole shape and type.
        content_bytes: Size of the piece, which the caller writes right after it.
    """
    dims = b"".join(_key(1, _NUMBER) + _number(size) for size in entry.shape or (0,))
    tensor_start = dims + _sized(2, dtypes.TO_CKPT[entry.dtype].encode()) + _key(3, _BYTES) + _number(
        content_bytes)
    value_start = _sized(1, name.encode()) + _key(2, _BYTES) + _number(len(tensor_start) + content_bytes) + (
        tensor_start)
    return _key(1, _BYTES) + _number(len(value_start) + content_bytes) + value_start


def _key(number: int, wire_type: int) -> bytes:
    return _number(number << 3 | wire_type)


def _sized(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
