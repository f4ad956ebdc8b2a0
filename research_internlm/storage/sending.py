"""Uploads files and folders: what to send, and sending it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import refuse_listing, sha256_of
from research_internlm.shared.staging import is_partial
from research_internlm.storage.links import Link
from research_internlm.storage.multipart import Item, send_item
from research_internlm.storage.obs import ObjectStore

LEAST_PART_MIB = 5  # S3's limit; OBS takes less


def items_of(source: str | Path, prefix: str) -> tuple[list[Item], list[str]]:
    """The files of a source, sorted, with their keys.

    Returns:
        The files, and what cannot be sent, with the reason.

    Raises:
        ToolkitError: The source is missing or holds no file.
    """
    source = Path(source)
    if not source.exists():
        raise ToolkitError(f"{source} does not exist")
    start = f"{prefix}/" if prefix else ""
    if source.is_file():
        return [Item.of(source, start + source.name)], []
    items, left_out = [], []
    for path, reason in _walk(source):
        if reason is None:
            items.append(Item.of(path, start + path.relative_to(source).as_posix()))
        else:
            left_out.append(f"{os.fsencode(path).decode(errors='backslashreplace')} {reason}")
    if not items:
        raise ToolkitError(f"{source} holds no files" + (f" ({'; '.join(left_out)})" if left_out else ""))
    return sorted(items, key=lambda item: item.path), left_out


def _walk(source: Path) -> Iterator[tuple[Path, str | None]]:
    """Files below a folder, those of linked folders too; with the reason those that cannot be sent."""
    for top, folders, names in os.walk(source, followlinks=True, onerror=refuse_listing):
        here = Path(top)
        above = {folder.resolve() for folder in (here, *here.absolute().parents)}
        for folder in list(folders):
            if is_partial(Path(folder)):
                folders.remove(folder)
            # Its files would be sent again and again, under ever longer names.
            elif (here / folder).is_symlink() and (here / folder).resolve() in above:
                folders.remove(folder)
                yield here / folder, "is a link to a folder it lies in"
        for path in map(here.joinpath, names):
            yield path, _unsendable(path)


def _unsendable(path: Path) -> str | None:
    if not path.exists():
        return "is a link to nothing"
    if not path.is_file():
        return "is not a regular file"
    if os.fsencode(path.name).decode(errors="backslashreplace") != path.name:
        return "has a name that is not UTF-8; rename it"
    return None


def upload_item(store: ObjectStore, item: Item, part_size: int, parallel: int, overwrite: bool, bar: tqdm
                ) -> tuple[Link, int]:
    """Uploads one file as it is now, or finds it there already, and verifies it.

    Args:
        store: The bucket.
        item: The file; it may have grown since it was listed.

    The others, and what it raises, are those of `send_item`.

    Returns:
        Its link, not yet public, and the bytes this call sent.
    """
    item = Item.of(item.path, item.key)
    bar.set_description(f"checksum of {item.path.name}")
    sha256 = sha256_of(item.path)
    bar.set_description(f"upload of {item.path.name}")
    sent = send_item(store, item, sha256, part_size, parallel, overwrite, bar)
    return Link(file=item.path.name, bytes=item.size, sha256=sha256, url=store.url(item.key)), sent


def publish(store: ObjectStore, key: str, size: int) -> None:
    """Makes an object of so many bytes public-read and checks it anonymously.

    Raises:
        ToolkitError: It cannot be read anonymously, or is another one.
    """
    store.make_public(key)
    found = store.anonymous_size(key)
    if found != size:
        raise ToolkitError(f"{store.url(key)} has {found:,} bytes for an anonymous reader, the file has "
                           f"{size:,}")
