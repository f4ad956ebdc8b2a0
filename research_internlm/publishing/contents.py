"""The files of a folder that is to be published, and everything that forbids to publish them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from research_internlm.checkpoints.hf_folder import shards_of
from research_internlm.checkpoints.tensor_files import TensorFile
from research_internlm.contest import handin_zip
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest, require_file, sha256_of
from research_internlm.shared.staging import is_partial
from research_internlm.storage.sending import items_of

CARD = "README.md"
_TENSORS = (".safetensors", ".ckpt")
# What downloads and editors call a file that is not whole yet.
_UNFINISHED = (".part", ".partial", ".tmp", ".incomplete", ".crdownload", ".aria2", ".download", ".swp")


@dataclass(frozen=True)
class Item:
    """One file to publish.

    Attributes:
        name: Its path in the repository, with slashes.
        path: Where it is.
        size: Bytes.
        sha256: Of its bytes, hex.
    """

    name: str
    path: Path
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, path: Path) -> Item:
        """Reads a file's size and checksum."""
        return cls(name, path, path.stat().st_size, sha256_of(path))


def collect(folder: str | Path) -> tuple[list[Item], list[str]]:
    """The files of a folder, checked.

    Args:
        folder: The folder to publish.

    Returns:
        The files, and the names of hidden ones, which stay here.

    Raises:
        ToolkitError: With everything that forbids to publish the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ToolkitError(f"{folder} is not a folder; give the folder to publish, e.g. one that weights.py "
                           "to-hf wrote")
    found, problems = items_of(folder, "")
    paths = {item.key: item.path for item in found}
    hidden = [name for name in paths if any(part.startswith(".") for part in PurePosixPath(name).parts)]
    paths = {name: path for name, path in paths.items() if name not in hidden}
    if not paths:
        raise ToolkitError(f"{folder} holds hidden files only: {', '.join(hidden[:5])}")
    problems += handin_zip.unsafe_names(paths, [folder])
    problems += _unfinished(folder, paths)
    if not problems:  # the rest reads every file
        problems += _credentials(paths)
    _refuse(folder, problems)
    items = [Item.of(name, path) for name, path in tqdm(paths.items(), desc="sha256", unit="file",
                                                        disable=None)]
    _refuse(folder, list(_differing(items)))
    return items, hidden


def _refuse(folder: Path, problems: Sequence[str]) -> None:
    if problems:
        listed = "; ".join(f"({place}) {text}" for place, text in enumerate(problems, 1))
        raise ToolkitError(f"{folder} is not ready to publish, {len(problems)} problem(s): {listed}")


def _unfinished(folder: Path, paths: dict[str, Path]) -> Iterator[str]:
    """Files that are not whole: partial, empty or truncated ones, Git LFS pointers, missing shards."""
    yield from (f"{path.name} is an unfinished output; wait until it is made, or remove it"
                for path in sorted(folder.rglob(".partial-*")) if is_partial(path.relative_to(folder)))
    for name, path in paths.items():
        if name.endswith(_UNFINISHED):
            yield f"{name} is a partial file; finish it or remove it"
            continue
        try:
            require_file(path, "the file")
            if name.endswith(_TENSORS):
                TensorFile(path, "the file").close()
        except ToolkitError as error:
            yield str(error)
    if any(name.endswith((".safetensors.index.json", ".bin.index.json")) for name in paths):
        try:
            shards_of(folder)
        except ToolkitError as error:
            yield str(error)


def _credentials(paths: dict[str, Path]) -> Iterator[str]:
    """Credentials in any file. Of files of tensors the text before the numbers is looked through.

    The numbers of a 15 GB model would take half an hour and hold no text; that every byte of the file
    belongs to a tensor was checked before.
    """
    with tempfile.TemporaryDirectory() as place:
        parts = {}
        for number, (name, path) in enumerate(paths.items()):
            if name.endswith(".safetensors"):
                parts[name] = Path(place) / str(number)
                with open(path, "rb") as file:
                    size = int.from_bytes(file.read(8), "little")
                    parts[name].write_bytes(file.read(size))
            elif not name.endswith(_TENSORS):
                parts[name] = path
        yield from handin_zip.credentials(parts)


def _differing(items: Sequence[Item]) -> Iterator[str]:
    """Files that are not the ones their manifest was written for."""
    for item in items:
        stated = (read_manifest(item.path) or {}).get("sha256")
        if stated and stated != item.sha256:
            yield (f"{item.name} has the sha256 {item.sha256[:12]}, its manifest says {str(stated)[:12]}: it "
                   "was changed or damaged after it was made; make it again")
