"""Entry point: evaluates a checkpoint inside a run folder; scripts/evaluate.sh calls it.

The contest wants the complete log of the SQuAD evaluation, so the log is kept under a name that report and
hand-in find (run_folder.py, submission.py), one for each checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from research_internlm.contest import preflight
from research_internlm.errors import ToolkitError, run_main
from research_internlm.files import require_absent, require_file

EVALUATE = Path(__file__).resolve().parents[1] / "evaluate.py"


def output_files(run: Path, task: str, checkpoint: Path) -> tuple[Path, Path]:
    """Results and log of one evaluation.

    Checkpoints of a run differ by name; those of other folders (base, merged) by folder and name.
    """
    own = run in checkpoint.absolute().parents
    name = checkpoint.stem if own else f"{checkpoint.absolute().parent.name}_{checkpoint.stem}"
    return run / f"results_{task}_{name}.json", run / f"{task}_{name}.log"


def evaluate(run: Path, task: str, options: list[str]) -> int:
    """Runs evaluate.py, its words passed on and kept.

    Returns:
        evaluate.py's exit code.

    Raises:
        ToolkitError: Something does not hold before the start, or the results exist already.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--load_checkpoint")
    parser.add_argument("--overwrite", action="store_true")
    known, _ = parser.parse_known_args(options)
    if known.load_checkpoint is None:
        raise ToolkitError("--load_checkpoint is missing: name the checkpoint to evaluate")
    checkpoint = require_file(known.load_checkpoint, "--load_checkpoint")
    problems = [*preflight.version_problems(preflight.installed_versions(), "CPU"),
                *preflight.writable_problems(run)]
    if problems:
        raise ToolkitError("; ".join(problems))
    results, log = output_files(run.absolute(), task, checkpoint)
    require_absent(results, known.overwrite)
    command = [sys.executable, str(EVALUATE), task, *options, "--output", str(results)]
    # A log without results is of an evaluation that failed: the next attempt goes behind it.
    with open(log, "w" if known.overwrite else "a", encoding="utf-8") as kept:
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
