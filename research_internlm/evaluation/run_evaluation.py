"""Entry point: evaluates a checkpoint inside a run folder; scripts/evaluate.sh calls it.

The contest wants the complete log of the SQuAD evaluation, so the log is kept under a name that report and
hand-in find (run_folder.py, submission.py), one for each checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from research_internlm import evaluate as evaluate_entry
from research_internlm import recipes
from research_internlm.launching import machine_checks
from research_internlm.shared import run_layout, versions
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import require_absent, require_file

EVALUATE = Path(evaluate_entry.__file__)
LEAST_FREE = 100_000_000  # bytes; 10,570 predictions, results and log are some 10 MB


def output_files(run: Path, task: str, checkpoint: Path) -> tuple[Path, Path]:
    """Results and log of one evaluation.

    Checkpoints of a run differ by name; those of other folders (base, merged) by folder and name.
    """
    own = run in checkpoint.absolute().parents
    name = checkpoint.stem if own else f"{checkpoint.absolute().parent.name}_{checkpoint.stem}"
    return run_layout.evaluation_files(run, task, name)


def problems(run: Path, recipe: recipes.Recipe, device_target: str | None) -> list[str]:
    """What stands between this machine and the evaluation, all of it.

    Args:
        run: Folder of results and log.
        recipe: The resolved predict recipe.
        device_target: `--device_target`, which goes before the recipe's.
    """
    device = device_target or (recipe.get("context") or {}).get("device_target", "Ascend")
    found = [*machine_checks.version_problems(versions.installed_versions(), device),
             *machine_checks.device_problems(1, device), *machine_checks.writable_problems(run)]
    free = shutil.disk_usage(next(folder for folder in (run, *run.parents) if folder.exists())).free
    if free < LEAST_FREE:
        found.append(f"results, predictions and log need about {LEAST_FREE / 1e6:.0f} MB in {run}, but "
                     f"{free / 1e6:.0f} MB are free: make room, or use a run folder on another disk")
    return found


def evaluate(run: Path, task: str, options: list[str]) -> int:
    """Runs evaluate.py, its words passed on and kept.

    Returns:
        evaluate.py's exit code.

    Raises:
        ToolkitError: Something does not hold before the start, or the results exist already.
    """
    # Only the command's own options are known before the results have a name.
    given = evaluate_entry.parse_arguments([task, *options, "--output", "named below"])
    checkpoint = require_file(given.load_checkpoint, "--load_checkpoint")
    found = problems(run.absolute(), recipes.resolve(given.config, given.overlay, given.overrides),
                     given.device_target)
    if found:
        raise ToolkitError(f"{len(found)} problem(s) before the start: "
                           + " ".join(f"({number}) {text}." for number, text in enumerate(found, 1)))
    results, log = output_files(run.absolute(), task, checkpoint)
    require_absent(results, given.overwrite)
    command = [sys.executable, str(EVALUATE), task, *options, "--output", str(results)]
    # A log without results is of an evaluation that failed: the next attempt goes behind it.
    with open(log, "w" if given.overwrite else "a", encoding="utf-8") as kept:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace")
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    return process.wait()


def main() -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(prog="scripts/evaluate.sh", description=__doc__.split("\n\n")[1],
                                     allow_abbrev=False)
    parser.add_argument("run", metavar="RUN_DIR", help="output_dir of the run")
    parser.add_argument("task", choices=("mmlu", "squad"))
    arguments, options = parser.parse_known_args()
    return evaluate(Path(arguments.run), arguments.task, options)


if __name__ == "__main__":
    run_main(main)
