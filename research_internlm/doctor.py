"""Entry point: says on one page what this machine has, what is wrong with it, and what to do.

    bash scripts/doctor.sh
    internlm doctor --output_dir /home/ma-user/work/output --lang zh

Machine type, Python, packages, package index, NPUs, driver, CANN, HCCL, memory, limits, disk, locale, clock,
variables and OBS. Nothing is changed, MindSpore is not imported, and no credential is shown. Exit code 0,
also with warnings; 2 with problems. A machine without an NPU is a place to rehearse, which is no problem.
"""

from __future__ import annotations

import argparse
import json
import os

from research_internlm.machine.finding import LEVELS, OK, PROBLEM, WARNING
from research_internlm.machine.page import examine, report, summary, worst
from research_internlm.shared.arguments import program
from research_internlm.shared.errors import USER_ERROR_EXIT_CODE, run_main
from research_internlm.shared.schema import to_json
from research_internlm.shared.terminal import print_marked

_COLOURS = {OK: 32, WARNING: 33, PROBLEM: 31}


def default_language() -> str:
    """`zh` in a Chinese locale, else `en`; by the variables, as images name locales that they do not have."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next(filter(None, names), "").startswith("zh") else "en"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(prog=program("scripts/doctor.sh"), description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="output", metavar="D",
                        help="folder that runs will be written to (default: %(default)s)")
    parser.add_argument("--lang", choices=("en", "zh"), help="language of the page (default: the locale's)")
    parser.add_argument("--json", action="store_true", help="print the page as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Prints the page."""
    arguments = parse_arguments(argv)
    lang = arguments.lang or default_language()
    findings = examine(arguments.output_dir)
    if arguments.json:
        print(json.dumps(to_json(report(findings, lang)), ensure_ascii=False, indent=2))
    else:
        names = {level: name[lang == "zh"] for level, name in LEVELS.items()}
        width, colon = max(map(len, names.values())), "：" if lang == "zh" else ": "
        for finding in findings:
            print_marked(f"{names[finding.level]:{width}}", _COLOURS[finding.level],
                         f"  {finding.code.topic.name_in(lang)}{colon}{finding.text(lang)}")
        print(summary(findings, lang))
    return USER_ERROR_EXIT_CODE if worst(findings) == PROBLEM else 0


if __name__ == "__main__":
    run_main(main)
