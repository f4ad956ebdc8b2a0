"""One file to the object store: in one request or in parallel parts, resumable, verified.

After a kill the server is asked which parts it holds; those whose MD5 is that of the local bytes are not sent
again. Every part's MD5 is checked by the server, at the end size and sha256 are read back, and a file that
changes meanwhile is refused: its checksum would describe no state that the file ever had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from research_internlm.shared.errors import ToolkitError
from research_internlm.storage import upload_state
from research_internlm.storage.obs import ObjectStore, StoredObject

MIB = 2**20
MOST_PARTS = 10_000  # of one object, the limit of OBS and of S3


class ChangedError(ToolkitError):
    """A file changed while it was sent; nothing of it has its final name on the server."""


@dataclass(frozen=True)
class Item:
    """One file to send, as it was when it was looked at.

    Attributes:
        path: Where it is.
        key: Its key in the bucket.
        size: Bytes.
        modified: st_mtime_ns.
    """

    path: Path
    key: str
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path, key: str) -> Item:
        """Looks at a file: size and time together, so that a later change shows in one of them."""
        status = path.stat()
        return cls(path, key, status.st_size, status.st_mtime_ns)

    def require_unchanged(self) -> None:
        """Compares the file with what it was.

        Raises:
            ChangedError: It is longer, shorter or written to since.
        """
        if (now := Item.of(self.path, self.key)) != self:
            raise ChangedError(f"{self.path} changed while it was uploaded ({self.size:,} bytes before, "
                               f"{now.size:,} now); upload it when nothing writes to it")


def part_ranges(size: int, part_size: int) -> list[tuple[int, int]]:
    """Start and length in bytes of each part, part number 1 first; parts grow where 10,000 would not do."""
    part_size = max(part_size, -(-size // MOST_PARTS))
    return [(start, min(part_size, size - start)) for start in range(0, size, part_size)]


def send_item(store: ObjectStore, item: Item, sha256: str, part_size: int, parallel: int, overwrite: bool,
              bar: tqdm) -> int:
    """Sends a file whose checksum is known, or finds it there already, and verifies it.

    Args:
        store: The bucket.
        item: The file, looked at before the checksum was taken.
        sha256: Of its content.
        part_size: Bytes of a part; smaller files go in one request.
        parallel: Parts sent at once.
        overwrite: Replace an object of other content.
        bar: Progress bar in bytes.

    Returns:
        The bytes sent.

    Raises:
        ToolkitError: Another object has that key, the file changes meanwhile, or the server disagrees.
    """
    item.require_unchanged()
    there = store.head(item.key)
    sent = 0
    if there is not None and (there.size, there.sha256) == (item.size, sha256):
        bar.update(item.size)
    elif there is not None and not overwrite:
        raise ToolkitError(f"obs://{store.bucket}/{item.key} exists already with other content "
                           f"({there.size:,} bytes); pass --overwrite to replace it, or use another prefix")
    elif item.size <= part_size:
        content = item.path.read_bytes()
        item.require_unchanged()
        store.put(item.key, content, sha256)
        sent = item.size
        bar.update(sent)
    else:
        sent = _send_parts(store, item, sha256, part_size, parallel, bar)
    _verify(store.head(item.key), item, sha256, store.bucket)
    return sent


def _send_parts(store: ObjectStore, item: Item, sha256: str, part_size: int, parallel: int, bar: tqdm) -> int:
    """Sends the parts the server does not hold yet; returns the bytes sent."""
    ranges = part_ranges(item.size, part_size)
    upload_id, kept = _resumable(store, item, sha256, ranges)
    if upload_id is None:
        upload_id = store.start_upload(item.key, sha256)
        upload_state.remember(upload_id, sha256)
    bar.update(sum(ranges[number - 1][1] for number in kept))

    def send(number: int) -> tuple[int, str, int]:
        content = _read_part(item, ranges[number - 1])
        etag = store.put_part(item.key, upload_id, number, content)
        return number, etag, len(content)

    etags, sent = dict(kept), 0
    with ThreadPoolExecutor(parallel) as pool:
        waiting = [pool.submit(send, number) for number in range(1, len(ranges) + 1) if number not in kept]
        try:
            for done in as_completed(waiting):
                number, etags[number], length = done.result()
                sent += length
                bar.update(length)
        except BaseException:
            # Parts already sent stay on the server for the next try.
            pool.shutdown(cancel_futures=True)
            raise
    item.require_unchanged()
    listed = {number: etag for number, (_, etag) in store.stored_parts(item.key, upload_id).items()}
    if wrong := [number for number in etags if listed.get(number) != etags[number]]:
        raise ToolkitError(f"{item.path}: the server lists other content for part(s) {wrong}; run the same "
                           "command again")
    store.finish_upload(item.key, upload_id, etags)
    upload_state.forget(upload_id)
    return sent


def _resumable(store: ObjectStore, item: Item, sha256: str, ranges: Sequence[tuple[int, int]]
               ) -> tuple[str | None, dict[int, str]]:
    """An unfinished upload of this very file: its id, and its parts' ETags (their MD5) by number.

    One that was started for another file, by another machine, in another part size, or in a bucket that
    encrypts, where an ETag is not an MD5, is dropped.
    """
    upload_id = store.pending_upload(item.key)
    if upload_id is None:
        return None, {}
    stored = store.stored_parts(item.key, upload_id) if upload_state.recall(upload_id) == sha256 else {}
    same = all(number <= len(ranges) and size == ranges[number - 1][1]
               and etag == hashlib.md5(_read_part(item, ranges[number - 1])).hexdigest()
               for number, (size, etag) in stored.items())
    if stored and same:
        return upload_id, {number: etag for number, (_, etag) in stored.items()}
    store.abort_upload(item.key, upload_id)
    upload_state.forget(upload_id)
    return None, {}


def _read_part(item: Item, part: tuple[int, int]) -> bytes:
    start, length = part
    with open(item.path, "rb") as file:
        file.seek(start)
        return file.read(length)


def _verify(there: StoredObject | None, item: Item, sha256: str, bucket: str) -> None:
    """Checks what the server says against the file."""
    if there is None or (there.size, there.sha256) != (item.size, sha256):
        found = f"{there.size:,} bytes, sha256 {there.sha256}" if there else "nothing"
        raise ToolkitError(f"obs://{bucket}/{item.key} is not what was uploaded: the server has {found}; the "
                           f"file has {item.size:,} bytes, sha256 {sha256}; upload again with --overwrite")
