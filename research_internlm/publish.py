"""Entry point: publish a folder on OpenXLab, ModelScope or Modelers, with model card, verified afterwards.

    internlm publish exported --to modelscope --repo USER/NAME --run RUN_DIR --license apache-2.0 --dry_run
    internlm publish exported --to openxlab --repo USER/NAME --license apache-2.0

Everything goes through the hubs' own packages. Tokens come from the environment only: MODELSCOPE_API_TOKEN;
MODELERS_TOKEN; OPENXLAB_AK and OPENXLAB_SK, with OPENXLAB_PROGRAM as the program `openxlab` of an environment
of its own. Before anything leaves, every file is checked: whole, as its manifest says, without credentials. A
README.md in the folder goes as it is; where there is none, one is written from the run. After a break the
same command sends what is missing. Hidden files stay here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from research_internlm.publishing import metafile
from research_internlm.publishing.sending import HUBS, Plan, connect, prepared, publish
from research_internlm.shared.arguments import place
from research_internlm.shared.errors import run_main

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def repository(text: str) -> str:
    """An argparse type: USER/NAME."""
    if not _REPO.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not USER/NAME (letters, digits, dot, dash, "
                                         "underscore)")
    return text


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", metavar="DIR", type=place, help="folder to publish, e.g. of weights.py to-hf")
    add("--to", required=True, choices=HUBS, help="the hub")
    add("--repo", required=True, type=repository, metavar="USER/NAME", help="the repository; made if missing")
    add("--run", type=Path, metavar="RUN_DIR", help="the run that made the weights: data, recipe and scores "
        "for the card")
    add("--license", metavar="ID", help="e.g. apache-2.0; needed unless the folder's README.md states one")
    add("--base_model", metavar="NAME", help="the base as the hub names it (default: that of "
        "adapter_config.json)")
    add("--private", action="store_true", help="make the repository private; one that is public is refused")
    add("--dry_run", action="store_true", help="only show what would be sent; connects to nothing")
    return parser.parse_args(argv)


def describe(plan: Plan) -> Iterator[str]:
    """What a call would send."""
    if plan.card:
        yield f"README.md, written for this call:\n{plan.card}"
    if plan.hub == "openxlab":
        yield f"{metafile.NAME}:\n" + metafile.text(
            metafile.build(plan.repo, plan.licence, plan.items, plan.datasets))
    for item in plan.items:
        yield f"{item.name} ({item.size:,} bytes, sha256 {item.sha256[:12]})"
    size = sum(item.size for item in plan.items)
    yield f"{len(plan.items)} file(s), {size:,} bytes to {plan.hub} {plan.repo}"


def main(argv: list[str] | None = None) -> int:
    """Publishes the folder of the command line."""
    given = parse_arguments(argv)
    with prepared(given.folder, given.to, given.repo, given.run, given.license, given.base_model) as plan:
        if plan.hidden:
            print(f"{len(plan.hidden)} hidden file(s) are not sent: {', '.join(plan.hidden)}")
        if given.dry_run:
            print("\n".join(describe(plan)))
            return 0
        publish(plan, connect(plan), given.private)
        print(f"published: {len(plan.items)} file(s), {sum(item.size for item in plan.items):,} bytes at "
              f"{plan.hub} {plan.repo}")
    return 0


if __name__ == "__main__":
    run_main(main)
