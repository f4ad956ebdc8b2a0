"""Entry point: measures steps on this machine's device, for plan; scripts/probe.sh calls it.

    bash scripts/probe.sh CONFIG [WORKERS] [--overlay YAML] [--output probe.json] [key.path=value ...]

Runs the recipe at its real size for a few steps at five shapes, with random weights and rows of its own, so
that nothing needs to be there: no data, no checkpoint. Writes step times, peak memory, device, versions and
date. The same command goes on where it was interrupted. `plan --probe probe.json` plans from it.
"""

from __future__ import annotations

import argparse

from research_internlm import recipes
from research_internlm.launching.probe_run import check_machine, measure
from research_internlm.planning.run_plan import check_recipe
from research_internlm.shared.arguments import program, whole
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import require_absent


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(prog=program("scripts/probe.sh"), description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="training recipe, e.g. yaml/lora_finetune.yaml")
    add("workers", nargs="?", type=whole(1), default=1, metavar="WORKERS",
        help="cards that work at the same time (default: %(default)s)")
    add("--overlay", action="append", default=[], metavar="YAML",
        help="yaml laid over the recipe (repeatable)")
    add("--output", default="probe.json", metavar="F", help="file to write (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an existing file")
    return recipes.parse_command_line(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Measures and writes the probe."""
    arguments = parse_arguments(argv)
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides)
    check_recipe(recipe)
    output = require_absent(arguments.output, arguments.overwrite)
    check_machine(recipe, arguments.workers)
    found = measure(recipe, arguments.workers, output, lambda text: print(text, flush=True))
    print(f"written: {output} ({len(found.points)} shapes, {len(found.failed)} not run)")
    return 0


if __name__ == "__main__":
    run_main(main)
