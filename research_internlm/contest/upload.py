"""Entry point: upload a file or a folder to OBS, in parallel parts, resumable, verified.

    export OBS_ACCESS_KEY_ID=... OBS_SECRET_ACCESS_KEY=... OBS_SERVER=https://obs.cn-north-4.myhuaweicloud.com
    bash scripts/upload_obs.sh merged.ckpt obs://bucket/weights
    bash scripts/upload_obs.sh merged.ckpt obs://bucket/weights --public_read --record RUN_DIR/obs_links.json

A file goes to obs://bucket/prefix/NAME, a folder's files below obs://bucket/prefix/ with their relative
paths. After a kill the same command goes on: the server is asked which parts it holds, and those whose MD5
is that of the local bytes are not sent again. Every part's MD5 is checked by the server; at the end size
and sha256 are read back.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from research_internlm.contest.object_store import SERVER_VARIABLE, ObjectStore, StoredObject, parse_url
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import read_json, sha256_of, write_json

MIB = 2**20
MOST_PARTS = 10_000  # of one object, the limit of OBS and of S3
LEAST_PART_MIB = 5  # S3's limit; OBS takes less


@dataclass(frozen=True)
class Item:
    """One file to upload: where it is, its key in the bucket, its size in bytes."""

    path: Path
    key: str
    size: int


def items_of(source: str | Path, prefix: str) -> list[Item]:
    """The files of a source, sorted, with their keys.

    Raises:
        ToolkitError: The source is missing or holds no file.
    """
    source = Path(source)
    if not source.exists():
        raise ToolkitError(f"{source} does not exist")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    if not files:
        raise ToolkitError(f"{source} holds no files")
    base = source.parent if source.is_file() else source
    start = f"{prefix}/" if prefix else ""
    return [Item(path, start + path.relative_to(base).as_posix(), path.stat().st_size) for path in files]


def part_ranges(size: int, part_size: int) -> list[tuple[int, int]]:
    """Start and length in bytes of each part, part number 1 first; parts grow where 10,000 would not do."""
    part_size = max(part_size, -(-size // MOST_PARTS))
    return [(start, min(part_size, size - start)) for start in range(0, size, part_size)]


def upload_item(store: ObjectStore, item: Item, part_size: int, parallel: int, overwrite: bool, bar: tqdm
                ) -> tuple[dict[str, Any], int]:
    """Uploads one file, or finds it there already, and verifies it.

    Args:
        store: The bucket.
        item: The file.
        part_size: Bytes of a part; smaller files go in one request.
        parallel: Parts sent at once.
        overwrite: Replace an object of other content.
        bar: Progress bar in bytes.

    Returns:
        Its entry for the upload record (file, bytes, sha256, url), and the bytes this call sent.

    Raises:
        ToolkitError: Another object has that key, the file changes meanwhile, or the server disagrees.
    """
    modified = item.path.stat().st_mtime_ns
    bar.set_description(f"checksum of {item.path.name}")
    sha256 = sha256_of(item.path)
    bar.set_description(f"upload of {item.path.name}")
    sent = send_item(store, item, sha256, modified, part_size, parallel, overwrite, bar)
    entry = {"file": item.path.name, "bytes": item.size, "sha256": sha256, "url": store.url(item.key)}
    return entry, sent


def send_item(store: ObjectStore, item: Item, sha256: str, modified: int, part_size: int, parallel: int,
              overwrite: bool, bar: tqdm) -> int:
    """Sends a file whose checksum is known, or finds it there already, and verifies it.

    Args:
        sha256: Of the file's content.
        modified: The file's st_mtime_ns before the checksum was taken.

    The others, and what it raises, are those of `upload_item`. Returns the bytes sent.
    """
    there = store.head(item.key)
    sent = 0
    if there is not None and (there.size, there.sha256) == (item.size, sha256):
        bar.update(item.size)
    elif there is not None and not overwrite:
        raise ToolkitError(f"obs://{store.bucket}/{item.key} exists already with other content "
                           f"({there.size:,} bytes); pass --overwrite to replace it, or use another prefix")
    elif item.size <= part_size:
        content = item.path.read_bytes()
        _same_file(item, modified)
        store.put(item.key, content, sha256)
        sent = item.size
        bar.update(sent)
    else:
        sent = _upload_parts(store, item, sha256, modified, part_size, parallel, bar)
    _verify(store.head(item.key), item, sha256, store.bucket)
    return sent


def connect(bucket: str, server: str | None) -> ObjectStore:
    """Access to a bucket at the given endpoint, else at the environment's.

    Raises:
        ToolkitError: No endpoint, or as `ObjectStore`.
    """
    server = server or os.environ.get(SERVER_VARIABLE)
    if not server:
        raise ToolkitError(f"no endpoint: set {SERVER_VARIABLE} or pass --server, e.g. "
                           "https://obs.cn-north-4.myhuaweicloud.com")
    return ObjectStore(bucket, server)


def _upload_parts(store: ObjectStore, item: Item, sha256: str, modified: int, part_size: int, parallel: int,
                  bar: tqdm) -> int:
    """Sends the parts the server does not hold yet; returns the bytes sent."""
    ranges = part_ranges(item.size, part_size)
    upload_id, kept = _resumable(store, item, ranges)
    if upload_id is None:
        upload_id = store.start_upload(item.key, sha256)
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
    _same_file(item, modified)
    listed = {number: etag for number, (_, etag) in store.stored_parts(item.key, upload_id).items()}
    if wrong := [number for number in etags if listed.get(number) != etags[number]]:
        raise ToolkitError(f"{item.path}: the server lists other content for part(s) {wrong}; run the same "
                           "command again")
    store.finish_upload(item.key, upload_id, etags)
    return sent


def _resumable(store: ObjectStore, item: Item, ranges: Sequence[tuple[int, int]]
               ) -> tuple[str | None, dict[int, str]]:
    """An unfinished upload of these very bytes: its id, and its parts' ETags (their MD5) by number.

    One that holds anything else is of another file or part size, or of a bucket that encrypts, where an
    ETag is no MD5; it is dropped.
    """
    upload_id = store.pending_upload(item.key)
    if upload_id is None:
        return None, {}
    stored = store.stored_parts(item.key, upload_id)
    same = all(number <= len(ranges) and size == ranges[number - 1][1]
               and etag == hashlib.md5(_read_part(item, ranges[number - 1])).hexdigest()
               for number, (size, etag) in stored.items())
    if stored and same:
        return upload_id, {number: etag for number, (_, etag) in stored.items()}
    store.abort_upload(item.key, upload_id)
    return None, {}


def _read_part(item: Item, part: tuple[int, int]) -> bytes:
    start, length = part
    with open(item.path, "rb") as file:
        file.seek(start)
        return file.read(length)


def _same_file(item: Item, modified: int) -> None:
    if item.path.stat().st_mtime_ns != modified:
        raise ToolkitError(f"{item.path} changed while it was uploaded; upload it when nothing writes to it")


def _verify(there: StoredObject | None, item: Item, sha256: str, bucket: str) -> None:
    """Holds what the server says against the file."""
    if there is None or (there.size, there.sha256) != (item.size, sha256):
        found = f"{there.size:,} bytes, sha256 {there.sha256}" if there else "nothing"
        raise ToolkitError(f"obs://{bucket}/{item.key} is not what was uploaded: the server has {found}; the "
                           f"file has {item.size:,} bytes, sha256 {sha256}; upload again with --overwrite")


def publish(store: ObjectStore, item: Item) -> None:
    """Makes an object public-read and checks it as a stranger would.

    Raises:
        ToolkitError: It cannot be read anonymously, or is another one.
    """
    store.make_public(item.key)
    size = store.anonymous_size(item.key)
    if size != item.size:
        raise ToolkitError(f"{store.url(item.key)} has {size:,} bytes for an anonymous reader, the file has "
                           f"{item.size:,}")


def record(entry: dict[str, Any], path: str | Path) -> None:
    """Adds an entry to the upload record that the report reads; one of the same url is replaced."""
    path = Path(path)
    known = {entry["url"]: entry for entry in read_json(path, "the upload record")} if path.is_file() else {}
    write_json(path, list({**known, entry["url"]: entry}.values()))


def describe(items: Sequence[Item], bucket: str, part_size: int) -> Iterator[str]:
    """What an upload would do."""
    for item in items:
        parts = 1 if item.size <= part_size else len(part_ranges(item.size, part_size))
        yield f"{item.path} -> obs://{bucket}/{item.key} ({item.size:,} bytes, {parts} part(s))"
    yield f"{len(items)} file(s), {sum(item.size for item in items):,} bytes"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(prog="upload_obs.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SRC", help="file or folder")
    add("target", metavar="obs://BUCKET/PREFIX", help="where it goes")
    add("--server", metavar="URL", help=f"endpoint of the bucket's region (default: ${SERVER_VARIABLE})")
    add("--parallel", type=int, default=4, metavar="N", help="parts sent at once (default: %(default)s)")
    add("--part_size", type=int, default=16, metavar="MIB",
        help="size of a part in MiB; N of them are in memory at once (default: %(default)s)")
    add("--public_read", action="store_true", help="let anyone read the objects, and check that anyone can")
    add("--record", metavar="F.json", help="write the links down for the report, e.g. RUN_DIR/obs_links.json")
    add("--overwrite", action="store_true", help="replace objects of other content")
    add("--dry_run", action="store_true", help="only list what would go where; connects to nothing")
    arguments = parser.parse_args(argv)
    if arguments.parallel < 1 or arguments.part_size < LEAST_PART_MIB:
        parser.error(f"--parallel must be at least 1 and --part_size at least {LEAST_PART_MIB}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Uploads what the command line names."""
    arguments = parse_arguments(argv)
    bucket, prefix = parse_url(arguments.target)
    items = items_of(arguments.source, prefix)
    part_size = arguments.part_size * MIB
    if arguments.dry_run:
        print("\n".join(describe(items, bucket, part_size)))
        return 0
    store = connect(bucket, arguments.server)
    with tqdm(total=sum(item.size for item in items), unit="B", unit_scale=True, disable=None) as bar:
        for item in items:
            entry, sent = upload_item(store, item, part_size, arguments.parallel, arguments.overwrite, bar)
            if arguments.public_read:
                publish(store, item)
            if arguments.record:
                record({**entry, "public_read": arguments.public_read}, arguments.record)
            state = "verified, public" if arguments.public_read else "verified"
            bar.write(f"{entry['url']} ({item.size:,} bytes, {sent:,} sent, {state})")
    return 0


if __name__ == "__main__":
    run_main(main)
