"""Runs a recipe for a few steps at several shapes, through the real Trainer, and notes time and memory.

Each shape is a run of its own, as a launch starts it: the resolved recipe with its own size, rows made here,
random base weights, no evaluation, no save but a timed one at its end. The data holds a few steps, so the run
ends early by itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import re
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocess.mindrecord import synthetic
from research_internlm import recipes
from research_internlm.launching import machine_checks
from research_internlm.launching.msrun import ROOT, run_msrun
from research_internlm.model import device_memory
from research_internlm.model.device_memory import GIB
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory, probe
from research_internlm.planning.flops import Shape
from research_internlm.planning.points import Point
from research_internlm.planning.probe import Probe
from research_internlm.runs.train_log_file import read_lines
from research_internlm.shared import schema, versions
from research_internlm.shared.errors import USER_ERROR_EXIT_CODE, ToolkitError
from research_internlm.shared.files import manifest_path, publish, read_json, staging, write_json
from research_internlm.shared.peak_memory import PEAK_MEMORY, SAVE_TIME, PeakMemory, SaveTime
from research_internlm.shared.run_layout import TRAIN_LOG

# Loss lines of a run that are not timed. The first step compiles, and in sink mode one more line holds part
# of it. A CPU's kernels try six partitions of their work in their first 30 launches, five each.
_WARM_UP_LINES, _CPU_WARM_UP_LINES = 3, 32
TIMED_LINES = 9
_KEPT_CALLBACKS = ("MFLossMonitor",)
_ERROR = re.compile(r"^error: (.*)|.*(out of memory|RuntimeError|Exception:).*", re.IGNORECASE)

# Runs the workers of a shape, whose run is FOLDER/run: exit code and log.
Runner = Callable[[Path, recipes.Recipe, Shape, int], tuple[int, str]]


def check_machine(recipe: recipes.Recipe, workers: int) -> None:
    """Checks versions and devices before anything is run.

    Raises:
        ToolkitError: With everything that is wrong.
    """
    device = recipe["context"]["device_target"]
    if problems := [*machine_checks.version_problems(versions.installed_versions(), device),
                    *versions.import_problems(), *machine_checks.ascend_problems(workers, recipe["context"])]:
        raise ToolkitError(f"{len(problems)} problem(s) before the start: {'; '.join(problems)}")


def measure(recipe: recipes.Recipe, workers: int, output: Path, say: Callable[[str], Any] = print,
            runner: Runner | None = None) -> Probe:
    """Measures the shapes of planning/probe.py and writes probe.json.

    The points so far are kept in OUTPUT.partial, and taken up by the next probe of the same recipe, workers
    and versions.

    Args:
        recipe: The resolved recipe.
        workers: Data-parallel workers of this machine.
        output: probe.json.
        say: Shows progress.
        runner: Runs the workers of one shape; None for msrun.

    Raises:
        ToolkitError: The recipe is wrong, or no shape ran.
    """
    found = empty_probe(recipe, workers)
    partial = output.with_name(output.name + ".partial")
    found = _taken_up(found, partial)
    with staging(output.parent) as folder:
        for number, shape in enumerate(probe.shapes(recipe)):
            if str(shape) in found.failed or shape in [point.shape for point in found.points]:
                continue
            found = with_shape(found, shape, folder / str(number), runner or run_workers)
            said = found.failed.get(str(shape)) or _measured_text(found.points[-1], found.memory)
            say(f"{shape}: {said}")
            write_json(partial, schema.to_json(found))
        if not found.points:
            partial.unlink()
            raise ToolkitError("no shape could be run: " + "; ".join(f"{shape}: {reason}" for shape, reason
                                                                     in found.failed.items()))
        staged = folder / output.name
        write_json(staged, schema.to_json(found))
        publish(staged, output)
    partial.unlink(missing_ok=True)
    return found


def empty_probe(recipe: recipes.Recipe, workers: int) -> Probe:
    """A probe of this machine that has measured nothing yet; see with_shape."""
    return Probe(recipe=recipe, recipe_sha256=probe.recipe_sha256(recipe, workers), workers=workers,
                 device=_device(recipe), memory="device", versions=versions.installed_versions(),
                 date=time.strftime("%Y-%m-%d"), points=[], failed={})


def _taken_up(found: Probe, partial: Path) -> Probe:
    """With the points of an interrupted probe of the same; shapes that failed are tried again."""
    if not partial.is_file():
        return found
    with contextlib.suppress(ToolkitError):
        older = schema.parse(Probe, read_json(partial, "the partial probe"), str(partial))
        if (older.recipe_sha256, older.versions) == (found.recipe_sha256, found.versions):
            return replace(found, points=older.points, memory=older.memory,
                           save_bytes_per_second=older.save_bytes_per_second)
    return found


def _measured_text(point: Point, kind: str) -> str:
    peak = "" if point.peak_bytes is None else f", peak {point.peak_bytes / GIB:.2f} GiB ({kind})"
    return f"{point.step_ms:.1f} ms a step{peak}"


def with_shape(found: Probe, shape: Shape, folder: Path, runner: Runner) -> Probe:
    """The probe with one more shape measured, or failed with a reason.

    Args:
        found: The points so far.
        shape: The shape.
        folder: A new folder for its run.
        runner: Runs the workers.

    Raises:
        ToolkitError: The recipe is wrong.
    """
    limit = device_memory.memory_limit(found.recipe)
    needed = memory.device_memory(found.recipe, count_parameters(recipes.model_config(found.recipe)), shape)
    if found.recipe["context"]["device_target"] != "CPU" and needed.total > limit:
        return replace(found, failed={**found.failed, str(shape): f"not run: needs about {needed}, and "
                                      f"{limit / GIB:.1f} GiB may be used"})
    folder.mkdir()
    run = folder / "run"
    code, log = runner(folder, found.recipe, shape, found.workers)
    lines = read_lines(run / TRAIN_LOG).records if (run / TRAIN_LOG).is_file() else {}
    times = [record.step_ms for record in lines.values()][warm_up(found.recipe):]
    if code or not times:
        return replace(found, failed={**found.failed, str(shape): _reason(code, log, bool(found.points))})
    peak = schema.read(run / PEAK_MEMORY, PeakMemory, "the peak memory")
    point = Point(shape=shape, step_ms=round(statistics.median(times), 3), peak_bytes=peak.bytes)
    saved = schema.read(run / SAVE_TIME, SaveTime, "the time of a save")
    rate = found.save_bytes_per_second or saved.bytes / saved.seconds
    return replace(found, points=[*found.points, point], memory=peak.kind, save_bytes_per_second=rate)


def shaped(recipe: recipes.Recipe, shape: Shape, workers: int) -> recipes.Recipe:
    """The recipe as a probe runs it at a shape."""
    changed = recipes.merge(recipe, {
        "run_mode": "finetune", "do_eval": False, "load_checkpoint": "", "resume_training": False,
        "use_parallel": workers > 1,
        "runner_config": {"epochs": 1, "batch_size": shape.rows},
        "recompute_config": {"recompute": shape.recompute}, "parallel_config": {"data_parallel": workers},
        "model": {"model_config": {"seq_length": shape.seq_length, "packed": shape.packed}}})
    config = recipes.model_config(changed)
    if config.get("labels_per_row"):  # the rows made here have another number
        config["labels_per_row"] = None
    if changed["runner_config"].get("sink_mode"):
        changed["runner_config"]["sink_size"] = _sink_size(recipe)
    changed["callbacks"] = [*(item for item in changed["callbacks"] if item["type"] in _KEPT_CALLBACKS),
                            {"type": "PeakMemoryMonitor"}, {"type": "SaveTimeMonitor"}]
    return changed


def warm_up(recipe: recipes.Recipe) -> int:
    """Loss lines of a run before those that are timed."""
    return _CPU_WARM_UP_LINES if recipe["context"]["device_target"] == "CPU" else _WARM_UP_LINES


def _sink_size(recipe: recipes.Recipe) -> int:
    """The recipe's, but no more than a loss line of a short run may hold."""
    runner = recipe["runner_config"]
    size = runner.get("sink_size", 1) if runner.get("sink_mode") else 1
    return size if 1 <= size <= 4 else 2


def _write_data(path: Path, recipe: recipes.Recipe, shape: Shape, workers: int, timed: int) -> None:
    """Writes the rows in a process of its own: MindSpore, once imported, would stay in this one."""
    def write() -> None:
        vocab_size = recipes.model_config(recipe)["vocab_size"]
        groups = synthetic.equal_rows(rows, shape.seq_length, shape.packed, shape.head_places, vocab_size)
        synthetic.write_groups(path, groups, shape.seq_length, vocab_size, shape.packed)

    lines = warm_up(recipe) + timed
    rows = lines * _sink_size(recipe) * shape.rows * workers
    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join()
    if process.exitcode or not manifest_path(path).is_file():
        raise ToolkitError(f"the probe's rows could not be written to {path.parent}; is the disk full?")


def run_workers(folder: Path, recipe: recipes.Recipe, shape: Shape, workers: int) -> tuple[int, str]:
    """Runs one shape's workers to their end.

    Args:
        folder: Where its rows, its recipe, its run and its logs go.
        recipe: The resolved recipe.
        shape: The shape.
        workers: How many.

    Returns:
        Exit code, and the log's text.
    """
    options = prepare(folder, recipe, shape, workers)
    command = [str(ROOT / "research_internlm/run_internlm.py"), *options]
    logs, run = folder / "logs", folder / "run"
    logs.mkdir()
    if workers == 1:
        command = [sys.executable, *command]
    else:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        command = ["msrun", f"--worker_num={workers}", f"--local_worker_num={workers}",
                   f"--master_port={port}", f"--log_dir={logs}", "--join=True", "--cluster_time_out=7200",
                   *command]
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        code, _ = run_msrun(command, logs, run.absolute(), workers > 1)
    texts = (log.read_text(encoding="utf-8", errors="replace") for log in sorted(logs.glob("*.log")))
    return code, "\n".join(texts)


def prepare(folder: Path, recipe: recipes.Recipe, shape: Shape, workers: int, timed: int = TIMED_LINES
            ) -> list[str]:
    """Writes a shape's rows and recipe; the rows are for the warm-up and so many loss lines.

    Returns:
        Options of run_internlm.py.
    """
    config, data = folder / "recipe.yaml", folder / "train.mindrecord"
    recipes.write_resolved(shaped(recipe, shape, workers), config)
    _write_data(data, recipe, shape, workers, timed)
    return ["--config", str(config), "--train_dataset", str(data), "--output_dir", str(folder / "run"),
            "--use_parallel", str(workers > 1)]


def _reason(code: int, log: str, some_ran: bool) -> str:
    """Why a shape did not run.

    Raises:
        ToolkitError: The recipe is at fault, so no shape would run.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "no output")
    if code == USER_ERROR_EXIT_CODE and not some_ran:
        raise ToolkitError(said.removeprefix("error: "))
    return f"exit code {code}: {said.strip()[:300]}" if code else "the run logged too few steps"


def _device(recipe: recipes.Recipe) -> str:
    target = recipe["context"]["device_target"]
    return f"{target} ({platform.machine()}, {os.cpu_count()} cores)" if target == "CPU" else target
