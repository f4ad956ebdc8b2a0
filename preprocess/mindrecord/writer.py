"""Writes rows as MindRecord."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from research_internlm.data.manifest import Part, read_mindrecord_manifest
from research_internlm.data.rows import SCHEMA
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, sha256_of

_ROWS_PER_WRITE = 4096

_NOT_IN_NAMES = frozenset("\\/:*?\"<>|`&;'")  # MindSpore, mindrecord/core/shardutils.py, check_filename

Row = dict[str, np.ndarray]


def require_name(path: Path) -> Path:
    """Checks, before any work, that MindSpore takes the name of a data set.

    Raises:
        ToolkitError: The name holds a character, or a blank at an end, that MindSpore refuses.
    """
    refused = sorted(_NOT_IN_NAMES & set(path.name))
    if refused or path.name != path.name.strip(" "):
        raise ToolkitError(f"{path} cannot be the name of a MindRecord file: MindSpore refuses "
                           f"{' '.join(refused) or 'a blank at its beginning or end'}; name another output")
    return path


def part_names(path: Path, partitions: int) -> list[str]:
    """File names MindSpore gives a data set: `F` and `F.db`, or `F0`, `F0.db`, `F1` ..."""
    stems = [path.name] if partitions == 1 else [
        path.name + str(number).zfill(len(str(partitions - 1))) for number in range(partitions)]
    return [name for stem in stems for name in (stem, stem + ".db")]


def results_of(path: Path, partitions: int) -> dict[Path, Path]:
    """The files of a data set, each with the manifest that finishes it."""
    return {path.with_name(name): manifest_path(path) for name in part_names(require_name(path), partitions)}


def load_writer() -> None:
    """Imports MindSpore, which takes a second or two, at a time that suits the caller."""
    import mindspore.mindrecord  # noqa: F401


def write_mindrecord(path: Path, rows: Iterable[Row], partitions: int, schema_name: str
                     ) -> list[Part]:
    """Writes rows.

    Args:
        path: `F.mindrecord`, the common name of the partitions, where results are made. MindSpore notes the
            file name inside the .db, so it is the final one.
        rows: `input_ids` and `labels`, int32 of one length; streamed.
        partitions: Number of files the rows are spread over.
        schema_name: Name of the schema inside the file.

    Returns:
        Its parts, as the manifest keeps them.

    Raises:
        ToolkitError: The disk is full or the folder cannot be written.
    """
    from mindspore._c_mindrecord import MSRStatus
    from mindspore.mindrecord import FileWriter

    try:
        writer = FileWriter(str(path), shard_num=partitions)
        writer.add_schema(SCHEMA, schema_name)
        rows = iter(rows)
        writer.write_raw_data(list(itertools.islice(rows, _ROWS_PER_WRITE)))
        for blobs in _blobs(rows, writer._writer._header.blob_fields):
            if writer._writer._writer.write_raw_data({}, blobs, True, False) != MSRStatus.SUCCESS:
                raise RuntimeError("rows were refused")
        writer.commit()
    except RuntimeError as error:
        reason = next((line for line in str(error).splitlines() if "[ERROR]" in line or line.strip()),
                      "no reason given")
        raise ToolkitError(f"MindSpore could not write {path} (disk full, or no right to write?): "
                           f"{reason.strip()}; free space and run the same command again") from error
    files = [path.with_name(name) for name in part_names(path, partitions)]
    return [Part(file=file.name, bytes=file.stat().st_size, sha256=sha256_of(file)) for file in files]


def parts_of_older(path: Path) -> list[str]:
    """Names of the parts of the data set that is being replaced; none where its manifest cannot be read.

    It may have more parts than the new one.
    """
    try:
        manifest = read_mindrecord_manifest(path)
    except ToolkitError:
        return []
    return [part.file for part in manifest.parts] if manifest else []


def _blobs(rows: Iterable[Row], fields: Iterable[str]) -> Iterator[list[bytes]]:
    """Rows as MindSpore 2.9.0's ShardWriter joins them: length (8 bytes, big end first) and bytes by field.

    Per row, its Python code asks the C++ core for the schema five times and copies everything four times,
    which is half of the time of writing. The first rows went that way and set the schema; the others are
    joined here.
    """
    fields, rows = list(fields), iter(rows)
    while batch := list(itertools.islice(rows, _ROWS_PER_WRITE)):
        contents = [[row[field].tobytes() for field in fields] for row in batch]
        yield [b"".join(part for content in row for part in (len(content).to_bytes(8, "big"), content))
               for row in contents]
