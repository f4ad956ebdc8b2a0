"""Entry point: a copy of a training run in OBS that outlives the machine.

    export OBS_ACCESS_KEY_ID=... OBS_SECRET_ACCESS_KEY=... OBS_SERVER=https://obs.cn-north-4.myhuaweicloud.com
    python research_internlm/mirror.py push RUN_DIR obs://bucket/prefix [--interval 5]
    python research_internlm/mirror.py fetch obs://bucket/prefix RUN_DIR

`push` runs beside the training, at the lowest priority, until its standard input has ended and no process of
the run lives (or until SIGTERM); then it sends what is left and says what is not safe (exit code 1). So
`< /dev/null` sends a folder once. It only reads the run's files, and waits out network errors. `fetch` makes
the folder again; data and base weights are not mirrored, it says which ones must be there.
"""

from __future__ import annotations

import argparse
import os
import sys

from research_internlm.mirroring.fetch import fetch
from research_internlm.mirroring.index import inputs_of
from research_internlm.mirroring.watch import push
from research_internlm.shared.arguments import number, place
from research_internlm.shared.errors import run_main
from research_internlm.storage.obs import SERVER_VARIABLE, connect, parse_url


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    push_parser = commands.add_parser("push", help="send a run while it grows")
    push_parser.add_argument("folder", metavar="RUN_DIR", type=place)
    push_parser.add_argument("url", metavar="obs://BUCKET/PREFIX")
    push_parser.add_argument("--interval", type=number(above=0), default=5.0, metavar="S",
                             help="seconds between two looks at the folder (default: %(default)s)")
    push_parser.add_argument("--finish_within", type=number(above=0), default=600.0, metavar="S",
                             help="seconds to send the rest after the training (default: %(default)s)")
    fetch_parser = commands.add_parser("fetch", help="make the run folder again")
    fetch_parser.add_argument("url", metavar="obs://BUCKET/PREFIX")
    fetch_parser.add_argument("folder", metavar="RUN_DIR", type=place)
    for command in (push_parser, fetch_parser):
        command.add_argument("--server", metavar="URL",
                             help=f"endpoint of the bucket's region (default: ${SERVER_VARIABLE})")
    return parser.parse_args(argv)


def fetch_run(arguments: argparse.Namespace) -> int:
    """Makes the folder and says what else must be there."""
    bucket, prefix = parse_url(arguments.url)
    index = fetch(connect(bucket, arguments.server), prefix, arguments.folder, print)
    print(f"{arguments.folder} holds the run up to step {index.last:,}; to continue, this must be "
          "there as well:")
    for line in inputs_of(index.facts):
        print(f"  {line}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    if arguments.command == "fetch":
        return fetch_run(arguments)
    code = push(arguments)
    sys.stdout.flush()
    os._exit(code)  # threads of an upload that hangs would be waited for


if __name__ == "__main__":
    run_main(main)
