"""Entry point: the submission as one reproducible zip named after the team, or all that is wrong with it.

    bash scripts/package_submission.sh output/run1 --team NAME

Before anything is packed: all parts are there and complete; report, config, logs and checkpoints agree;
five checkpoints are evenly spaced over the run; no file holds a credential. Layout, in the manual's order:

    1_report/    report.md, its manifest and its figures
    2_training/  resolved_config.yaml, run.json, all worker logs, the record of every attempt
    3_source/    README.md: how to install and run what lies below
    3_source/mindformers/research/internlm/   this toolkit's source
    4_squad/     results, every prediction, the evaluation's log
    sha256.txt   of all files above
"""

from __future__ import annotations

import argparse

from research_internlm.contest.handin_zip import package
from research_internlm.shared.arguments import program
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import sha256_of


def main(argv: list[str] | None = None) -> int:
    """Packs the run of the command line."""
    parser = argparse.ArgumentParser(prog=program("package_submission.sh"), description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR",
                        help="output_dir of a training run, with report and results")
    parser.add_argument("--team", required=True, metavar="NAME", help="name of the team, and of the zip")
    parser.add_argument("--output", default=".", metavar="D", help="folder of the zip (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing zip")
    arguments = parser.parse_args(argv)
    target = package(arguments.run, arguments.team, arguments.output, arguments.overwrite)
    print(f"written: {target} ({target.stat().st_size:,} bytes, sha256 {sha256_of(target)})")
    return 0


if __name__ == "__main__":
    run_main(main)
