"""Files that are complete or absent, and the manifest beside each of them.

Every file a later step reads is written under a temporary name in the same folder and renamed when it
is whole. The manifest (`NAME.manifest.json`) is written last, so a file with a manifest is a finished
file. It tells where the file came from: inputs with their sha256, counts, seed, prompt version.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.parsing import parse_json
from research_internlm.shared.staging import staging

MANIFEST_SUFFIX = ".manifest.json"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def manifest_path(path: str | os.PathLike) -> Path:
    """The manifest that belongs to `path`: the same name with `.manifest.json` appended."""
    path = Path(path)
    return path.with_name(path.name + MANIFEST_SUFFIX)


def sha256_of(path: str | os.PathLike, progress: Callable[[int], Any] | None = None) -> str:
    """Hex sha256 of a file's bytes, read in 1 MiB pieces.

    Args:
        path: The file.
        progress: Called with the size of each piece.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if progress:
                progress(len(block))
    return digest.hexdigest()


def require_file(path: str | os.PathLike, what: str, hint: str = "") -> Path:
    """Checks that an input file exists, can be read, and holds its content.

    Args:
        path: The file.
        what: What it is to the user, for the message ("the test file").
        hint: How to make it, put at the end of the message.

    Returns:
        The path.

    Raises:
        ToolkitError: It is missing, not a regular file, not readable, empty, the pointer that git leaves
            where Git LFS did not fetch the file, or its name is not UTF-8 (it could stand in no manifest).
    """
    path = Path(path)
    tail = f"; {hint}" if hint else ""
    require_utf8_name(path, what)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, device or socket"
            raise ToolkitError(f"{what} {path} is {kind}, a file was expected{tail}")
        with open(path, "rb") as file:
            start = file.read(len(_LFS_POINTER))
    except (FileNotFoundError, NotADirectoryError):
        raise ToolkitError(f"{what} {path} does not exist{tail}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ToolkitError(f"{what} {str(path)[:200]} cannot be read: {reason}{tail}") from None
    if status.st_size == 0:
        raise ToolkitError(f"{what} {path} is empty (0 bytes){tail}")
    if start == _LFS_POINTER:
        raise ToolkitError(f"{what} {path} is a Git LFS pointer, not the file itself: run `git lfs pull` in "
                           "its folder, or download the file from the release's page")
    return path


def lfs_pointers(paths: Iterable[Path]) -> list[Path]:
    """Those of some existing files that are Git LFS pointers, so that all can be named at once."""
    found = []
    for path in paths:
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                    found.append(path)
    return found


def list_folder(path: str | os.PathLike) -> list[Path]:
    """What a folder holds, sorted.

    Raises:
        ToolkitError: It may not be listed, which is not the same as empty.
    """
    try:
        return sorted(Path(path).iterdir())
    except OSError as error:
        raise _listing_error(error) from None


def files_below(folder: str | os.PathLike, pattern: str = "*") -> list[Path]:
    """What matches a pattern in a folder and in those below it, sorted; folders and links to them left out.

    Args:
        folder: The folder; where it is missing there are none.
        pattern: As for Path.match, e.g. `*.log` or `rank_*/info.log`.

    Raises:
        ToolkitError: A folder may not be listed. Path.rglob passes over it silently.
    """
    return sorted(path for top, _, names in os.walk(folder, onerror=refuse_listing)
                  for path in map(Path(top).joinpath, names) if path.match(pattern))


def refuse_listing(error: OSError) -> None:
    """Says that a folder cannot be listed; also for `os.walk`, which leaves such folders out silently.

    One that is not there, or not any more, is none.
    """
    if isinstance(error, FileNotFoundError):
        return
    raise _listing_error(error) from None


def _listing_error(error: OSError) -> ToolkitError:
    return ToolkitError(f"the folder {error.filename} cannot be listed: {error.strerror}; check the path and "
                        "its permissions")


def require_utf8_name(path: str | os.PathLike, what: str) -> None:
    """Refuses a name that could stand in no manifest.

    Raises:
        ToolkitError: It is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ToolkitError(f"{what} {path}: the name is not UTF-8; rename the file or folder") from None


def require_absent(path: str | os.PathLike, overwrite: bool, inputs: Iterable[str | os.PathLike] = (),
                   is_folder: bool = False) -> Path:
    """Checks, before any work, that an output can be written and destroys nothing it should not.

    Args:
        path: The output.
        overwrite: Whether the user asked to replace an existing one.
        inputs: Files the work reads: none of them may be, or lie in, the output.
        is_folder: Whether the output is a folder of files.

    Raises:
        ToolkitError: `path` exists and `overwrite` is False, is of the other kind, is an input, or cannot
            be made where it is.
    """
    path = Path(path)
    require_utf8_name(path, "the output")
    _require_writable_place(path)
    if os.path.lexists(path) and not (path.is_file() or path.is_dir()):
        raise ToolkitError(f"the output {path} is neither a file nor a folder (a device, a pipe, or a link "
                           "to nothing); name another output")
    if path.exists() and not overwrite:
        raise ToolkitError(f"{path} exists already; pass --overwrite to replace it, or name another output")
    for source in map(Path, inputs):
        if path.resolve() in (source.resolve(), *(source.resolve().parents if is_folder else ())):
            raise ToolkitError(f"the output {path} is also the input {source}, or the folder that holds it; "
                               "name another output")
    if path.exists() and path.is_dir() != is_folder:
        found, wanted = ("a file", "a folder") if is_folder else ("a folder", "a file")
        raise ToolkitError(f"the output {path} is {found}, but {wanted} is to be written; name another "
                           "output")
    return path


def _require_writable_place(path: Path) -> None:
    """Refuses a path that cannot be written: the name is too long, or a parent is a file or locked."""
    try:
        manifest_path(path).lstat()  # the longest name that will be written there
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ToolkitError(f"cannot write {str(path)[:200]}: {reason}; name another output") from None
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ToolkitError(f"cannot write {path}: {parent} is a file, not a folder; name another output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ToolkitError(f"cannot write {path}: the folder {parent} is not yours to write to; name another "
                           "output")


def require_room(folder: str | os.PathLike, needed: int, what: str) -> None:
    """Checks the free disk before a long write.

    Args:
        folder: Where it goes; it need not be there yet.
        needed: Bytes.
        what: What is written, in the plural.

    Raises:
        ToolkitError: There is less.
    """
    folder = Path(folder).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if needed > free:
        raise ToolkitError(f"{what} need {needed:,} bytes in {folder}, {free:,} are free: make room, or use "
                           "a larger disk")


def publish(staged: Path, final: Path) -> None:
    """Gives a staged file its final name; the manifest of an older file of that name goes first."""
    manifest_path(final).unlink(missing_ok=True)
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    os.replace(staged, final)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole text file under its final name at once (UTF-8, newlines as given)."""
    path = Path(path)
    with staging(path) as folder:
        staged = folder / path.name
        try:
            staged.write_text(text, encoding="utf-8", newline="")
        except UnicodeEncodeError as error:
            raise ToolkitError(f"cannot write {path}: {text[error.start:error.end]!r} is not valid Unicode; "
                               "correct the name or text it comes from") from None
        publish(staged, path)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON as the contest's files have it: UTF-8, four spaces, no escapes, no final newline."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=4))


def read_json(path: str | os.PathLike, what: str, hint: str = "") -> Any:
    """Reads a JSON file.

    Raises:
        ToolkitError: Missing, empty, not UTF-8, or refused by `parse_json`; with the position.
    """
    return parse_json(read_text(path, what, hint), f"{what} {path}")


def read_text(path: str | os.PathLike, what: str, hint: str = "") -> str:
    """Reads a UTF-8 text file, with or without a byte order mark.

    Raises:
        ToolkitError: Missing, empty or not UTF-8.
    """
    path = require_file(path, what, hint)
    return decode(path.read_bytes(), f"{what} {path}")


def decode(content: bytes, source: str) -> str:
    """A UTF-8 text, with or without a byte order mark.

    Args:
        content: Its bytes.
        source: Where they are from, for the message.

    Raises:
        ToolkitError: Not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ToolkitError(f"{source} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def write_manifest(path: str | os.PathLike, **facts: Any) -> None:
    """Writes the manifest of a finished output.

    Args:
        path: The output the manifest belongs to. Its own sha256 and size are added where it is one file
            (a partitioned data set is a common name, and lists its parts in the facts).
        **facts: What the step knows: `tool`, `inputs` ({name: sha256}), `counts`, `seed`, ...
    """
    path = Path(path)
    if path.is_file():
        facts |= {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    write_json(manifest_path(path), {
        **facts, "file": path.name, "toolkit_version": metadata.version("research-internlm")})


def read_manifest(path: str | os.PathLike) -> dict[str, Any] | None:
    """The manifest beside `path`, or None where there is none.

    Raises:
        ToolkitError: There is one but it is not a JSON object.
    """
    manifest = manifest_path(path)
    if not manifest.exists():
        return None
    facts = read_json(manifest, "the manifest")
    if not isinstance(facts, dict):
        raise ToolkitError(f"the manifest {manifest} is not a JSON object; make {path} again")
    return facts
