"""An evaluation that leaves its results and its log in a run folder.

The contest wants the complete log of the SQuAD evaluation, so the log is kept under a name that report and
submission find, one for each checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from research_internlm import recipes
from research_internlm.launching import machine_checks
from research_internlm.shared import run_layout, versions
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.result_set import result_set

LEAST_FREE = 100_000_000  # bytes; 10,570 predictions, results and log are some 10 MB


def output_files(run: Path, task: str, checkpoint: Path) -> tuple[Path, Path]:
    """Results and log of one evaluation.

    Checkpoints of a run differ by name; those of other folders (base, merged) by folder and name.
    """
    own = run in checkpoint.absolute().parents
    name = checkpoint.stem if own else f"{checkpoint.absolute().parent.name}_{checkpoint.stem}"
    return run_layout.evaluation_files(run, task, name)


def check_before_start(run: Path, recipe: recipes.Recipe, device_target: str | None) -> None:
    """Checks device, versions, folder and free disk.

    Args:
        run: Folder of results and log.
        recipe: The resolved predict recipe.
        device_target: `--device_target`, which goes before the recipe's.

    Raises:
        ToolkitError: With everything that prevents the evaluation on this machine.
    """
    context = recipe.get("context") or {}
    device = device_target or context.get("device_target", "Ascend")
    problems = [*machine_checks.version_problems(versions.installed_versions(), device),
                *versions.import_problems(),
                *machine_checks.ascend_problems(1, {**context, "device_target": device}),
                *machine_checks.writable_problems(run)]
    free = shutil.disk_usage(next(folder for folder in (run, *run.parents) if folder.exists())).free
    if free < LEAST_FREE:
        problems.append(f"results, predictions and log need about {LEAST_FREE / 1e6:.0f} MB in {run}, but "
                        f"{free / 1e6:.0f} MB are free: make room, or use a run folder on another disk")
    if problems:
        raise ToolkitError(f"{len(problems)} problem(s) before the start: "
                           + " ".join(f"({number}) {text}." for number, text in enumerate(problems, 1)))


def claim_files(run: Path, task: str, checkpoint: Path, overwrite: bool) -> Path:
    """Names the results of one evaluation, and keeps its log from here on.

    Returns:
        The file of the results.

    Raises:
        ToolkitError: They exist already.
    """
    output, log = output_files(run, task, checkpoint)
    with result_set(output, overwrite, {output: None}):
        pass  # the log may be replaced
    keep_log(log, overwrite)
    return output


def keep_log(log: Path, replace: bool) -> None:
    """Continues in a child process whose whole output is printed and also written to a log file.

    The parent copies and then exits with the child's code, so the log is complete however the child ends:
    with lines of native code, of its own children, and those of a crash. Call it while the process has no
    threads.

    Args:
        log: The log file.
        replace: Whether to replace an existing log. Otherwise it is added to: a log without results is of
            an evaluation that failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        return
    os.close(sink)
    with (open(log, "w" if replace else "a", encoding="utf-8") as kept,
          open(source, encoding="utf-8", errors="replace") as lines):
        for line in lines:
            print(line, end="", flush=True)
            kept.write(line)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
