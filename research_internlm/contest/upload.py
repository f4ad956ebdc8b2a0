"""Entry point: upload a file or a folder to OBS, in parallel parts, resumable, verified.

    export OBS_ACCESS_KEY_ID=... OBS_SECRET_ACCESS_KEY=... OBS_SERVER=https://obs.cn-north-4.myhuaweicloud.com
    bash scripts/upload_obs.sh merged.ckpt obs://bucket/weights
    bash scripts/upload_obs.sh merged.ckpt obs://bucket/weights --public_read --record RUN_DIR/obs_links.json

A file goes to obs://bucket/prefix/NAME, a folder's files below obs://bucket/prefix/ with their relative
paths, linked folders followed. After a kill the same command goes on with the parts the server lacks. What
cannot be sent, or changes meanwhile, is listed at the end, with exit code 2.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from research_internlm.contest.object_store import SERVER_VARIABLE, ObjectStore, parse_url
from research_internlm.contest.sending import MIB, ChangedError, Item, part_ranges, send_item
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import read_json, sha256_of, write_json

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
    for top, folders, names in os.walk(source, followlinks=True):
        here = Path(top)
        above = {folder.resolve() for folder in (here, *here.absolute().parents)}
        for folder in list(folders):
            # Its files would be sent again and again, under ever longer names.
            if (here / folder).is_symlink() and (here / folder).resolve() in above:
                folders.remove(folder)
                yield here / folder, "is a link to a folder it lies in"
        for path in map(here.joinpath, names):
            yield path, _unsendable(path)


def _unsendable(path: Path) -> str | None:
    if not path.exists():
        return "is a link to nothing"
    if not path.is_file():
        return "is no file"
    if os.fsencode(path.name).decode(errors="backslashreplace") != path.name:
        return "has a name that is not UTF-8; rename it"
    return None


def upload_item(store: ObjectStore, item: Item, part_size: int, parallel: int, overwrite: bool, bar: tqdm
                ) -> tuple[dict[str, Any], int]:
    """Uploads one file as it is now, or finds it there already, and verifies it.

    Args:
        store: The bucket.
        item: The file; it may have grown since it was listed.

    The others, and what it raises, are those of `send_item`.

    Returns:
        Its entry for the upload record (file, bytes, sha256, url), and the bytes this call sent.
    """
    item = Item.of(item.path, item.key)
    bar.set_description(f"checksum of {item.path.name}")
    sha256 = sha256_of(item.path)
    bar.set_description(f"upload of {item.path.name}")
    sent = send_item(store, item, sha256, part_size, parallel, overwrite, bar)
    entry = {"file": item.path.name, "bytes": item.size, "sha256": sha256, "url": store.url(item.key)}
    return entry, sent


def connect(bucket: str, server: str | None, patient: bool = True) -> ObjectStore:
    """Access to a bucket at the given endpoint, else at the environment's; `patient` as `ObjectStore` has it.

    Raises:
        ToolkitError: No endpoint, or as `ObjectStore`.
    """
    server = server or os.environ.get(SERVER_VARIABLE)
    if not server:
        raise ToolkitError(f"no endpoint: set {SERVER_VARIABLE} or pass --server, e.g. "
                           "https://obs.cn-north-4.myhuaweicloud.com")
    return ObjectStore(bucket, server, patient)


def publish(store: ObjectStore, key: str, size: int) -> None:
    """Makes an object of so many bytes public-read and checks it as a stranger would.

    Raises:
        ToolkitError: It cannot be read anonymously, or is another one.
    """
    store.make_public(key)
    found = store.anonymous_size(key)
    if found != size:
        raise ToolkitError(f"{store.url(key)} has {found:,} bytes for an anonymous reader, the file has "
                           f"{size:,}")


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


def upload_all(store: ObjectStore, items: Sequence[Item], base: Path, arguments: argparse.Namespace
               ) -> Iterator[str]:
    """Uploads files one after the other.

    Args:
        store: The bucket.
        items: The files.
        base: Folder to which the record names them.
        arguments: The command line.

    Yields:
        Files that changed meanwhile, with the reason; the others are still sent.
    """
    with tqdm(total=sum(item.size for item in items), unit="B", unit_scale=True, disable=None) as bar:
        for item in items:
            try:
                entry, sent = upload_item(store, item, arguments.part_size * MIB, arguments.parallel,
                                          arguments.overwrite, bar)
            except ChangedError as error:
                yield str(error)
                continue
            except FileNotFoundError:
                yield f"{item.path} is gone"
                continue
            if arguments.public_read:
                publish(store, item.key, entry["bytes"])
            if arguments.record:
                entry["file"] = item.path.relative_to(base).as_posix()
                record({**entry, "public_read": arguments.public_read}, arguments.record)
            state = "verified, public" if arguments.public_read else "verified"
            bar.write(f"{entry['url']} ({entry['bytes']:,} bytes, {sent:,} sent, {state})")


def main(argv: list[str] | None = None) -> int:
    """Uploads what the command line names."""
    arguments = parse_arguments(argv)
    bucket, prefix = parse_url(arguments.target)
    items, left_out = items_of(arguments.source, prefix)
    if arguments.dry_run:
        print("\n".join([*describe(items, bucket, arguments.part_size * MIB),
                         *(f"cannot be sent: {line}" for line in left_out)]))
        return 0
    source = Path(arguments.source)
    left_out += upload_all(connect(bucket, arguments.server), items,
                           source.parent if source.is_file() else source, arguments)
    if left_out:
        raise ToolkitError(f"{len(left_out)} file(s) of {source} were not uploaded: {'; '.join(left_out)}")
    return 0


if __name__ == "__main__":
    run_main(main)
