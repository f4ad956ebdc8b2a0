"""Entry point: upload a file or a folder to OBS, in parallel parts, resumable, verified.

    export OBS_ACCESS_KEY_ID=... OBS_SECRET_ACCESS_KEY=... OBS_SERVER=https://obs.cn-north-4.myhuaweicloud.com
    bash scripts/upload_obs.sh merged.ckpt obs://bucket/weights
    bash scripts/upload_obs.sh merged.ckpt obs://bucket/weights --public_read --record RUN_DIR/obs_links.json

A file goes to obs://bucket/prefix/NAME, a folder's files below obs://bucket/prefix/ with their relative
paths, linked folders followed. After a kill the same command continues with the parts the server lacks. What
cannot be sent, or changes meanwhile, is listed at the end, with exit code 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from research_internlm.shared.arguments import place, program, whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import require_absent
from research_internlm.storage.links import read_links, record
from research_internlm.storage.multipart import MIB, ChangedError, Item, part_ranges
from research_internlm.storage.obs import SERVER_VARIABLE, ObjectStore, connect, parse_url
from research_internlm.storage.sending import LEAST_PART_MIB, items_of, publish, upload_item


def describe(items: Sequence[Item], bucket: str, part_size: int) -> Iterator[str]:
    """What an upload would do."""
    for item in items:
        parts = 1 if item.size <= part_size else len(part_ranges(item.size, part_size))
        yield f"{item.path} -> obs://{bucket}/{item.key} ({item.size:,} bytes, {parts} part(s))"
    yield f"{len(items)} file(s), {sum(item.size for item in items):,} bytes"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(prog=program("upload_obs.sh"), description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SRC", type=place, help="file or folder")
    add("target", metavar="obs://BUCKET/PREFIX", help="where it goes")
    add("--server", metavar="URL", help=f"endpoint of the bucket's region (default: ${SERVER_VARIABLE})")
    add("--parallel", type=whole(1), default=4, metavar="N", help="parts sent at once (default: %(default)s)")
    add("--part_size", type=whole(LEAST_PART_MIB), default=16, metavar="MIB",
        help="size of a part in MiB; N of them are in memory at once (default: %(default)s)")
    add("--public_read", action="store_true", help="let anyone read the objects, and check that anyone can")
    add("--record", metavar="F.json", help="write the links down for the report, e.g. RUN_DIR/obs_links.json")
    add("--overwrite", action="store_true", help="replace objects of other content")
    add("--dry_run", action="store_true", help="only list what would go where; connects to nothing")
    return parser.parse_args(argv)


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
                link, sent = upload_item(store, item, arguments.part_size * MIB, arguments.parallel,
                                         arguments.overwrite, bar)
            except ChangedError as error:
                yield str(error)
                continue
            except FileNotFoundError:
                yield f"{item.path} is gone"
                continue
            if arguments.public_read:
                publish(store, item.key, link.bytes)
            if arguments.record:
                record(replace(link, file=item.path.relative_to(base).as_posix(),
                               public_read=arguments.public_read), arguments.record)
            state = "verified, public" if arguments.public_read else "verified"
            bar.write(f"{link.url} ({link.bytes:,} bytes, {sent:,} sent, {state})")


def main(argv: list[str] | None = None) -> int:
    """Uploads what the command line names."""
    arguments = parse_arguments(argv)
    bucket, prefix = parse_url(arguments.target)
    items, left_out = items_of(arguments.source, prefix)
    if arguments.dry_run:
        print("\n".join([*describe(items, bucket, arguments.part_size * MIB),
                         *(f"cannot be sent: {line}" for line in left_out)]))
        return 0
    # What would fail after the upload is said before it.
    if arguments.record and require_absent(arguments.record, overwrite=True).is_file():
        read_links(arguments.record)
    source = arguments.source
    left_out += upload_all(connect(bucket, arguments.server), items,
                           source.parent if source.is_file() else source, arguments)
    if left_out:
        raise ToolkitError(f"{len(left_out)} file(s) of {source} were not uploaded: {'; '.join(left_out)}")
    return 0


if __name__ == "__main__":
    run_main(main)
