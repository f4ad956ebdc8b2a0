"""Entry point: the work report of a run, written from its files.

    python research_internlm/report.py output/run1
    python research_internlm/report.py output/run1 --lang en --overwrite

Every number comes from run.json, resolved_config.yaml, the logs, the results*.json of evaluate.py and the
upload record; what is not there is called not measured. Figures go to RUN_DIR/analysis. The report's manifest
holds the sha256 of everything it was written from, so that the submission refuses an outdated report.
"""

from __future__ import annotations

import argparse

from research_internlm.contest.report_tables import write_report
from research_internlm.shared.errors import run_main


def main(argv: list[str] | None = None) -> int:
    """Writes the report of the command line's run."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR", help="output_dir of a training run")
    parser.add_argument("--lang", choices=("zh", "en"), default="zh",
                        help="language of the report (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report")
    arguments = parser.parse_args(argv)
    print(f"written: {write_report(arguments.run, arguments.lang, arguments.overwrite)}")
    return 0


if __name__ == "__main__":
    run_main(main)
