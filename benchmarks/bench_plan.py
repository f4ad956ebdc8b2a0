"""Predicted against measured: step times and peak memory, on the H100 table and on this CPU.

    python benchmarks/bench_plan.py [--cpu] [--rounds 4]

The H100 part takes no time: the model is fitted on three of the eleven points and predicts the other eight;
all eleven peaks are predicted. --cpu runs the shapes of the tiny packed recipe's probe, and seven others,
through the real Trainer. All are started and stopped after their warm-up; then they take turns of a few
steps, so that what else moves the machine's speed meets all of them. Memory there is corrected by the
probe's peaks, as plan --probe does.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.launching import probe_run
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory, points, probe, step_sources
from research_internlm.planning.cost import StepModel, fit
from research_internlm.planning.cost_table import run_shape
from research_internlm.planning.flops import Shape
from research_internlm.planning.points import GIB, Point
from research_internlm.planning.probe import Probe
from research_internlm.shared.errors import run_main
from research_internlm.shared.run_layout import TRAIN_LOG

ROOT = Path(__file__).resolve().parent.parent
FITTED = (2, 5, 4)  # of the table: 4 x 1024 and 1 x 576 without recomputing, 1 x 576 with it
# rows, length, recompute; none is one of the probe's.
OTHERS = ((2, 256, False), (8, 256, False), (2, 512, False), (4, 512, False), (2, 1024, False),
          (4, 256, True), (1, 512, False))
_HEADER = "| shape | predicted, ms | measured, ms | ratio | peak predicted, GiB | measured, GiB | ratio |"


def rows(model: StepModel, found: Sequence[Point], peaks: Sequence[float], fitted: Sequence[Point]
         ) -> Iterator[str]:
    """Rows of a table; shapes that were fitted have no prediction of their time."""
    yield _HEADER
    yield "|---|---|---|---|---|---|---|"
    for point, peak in zip(found, peaks, strict=True):
        predicted = model.step(point.shape).best
        said, ratio = f"{predicted:.0f}", f"{predicted / point.step_ms:.2f}"
        if point in fitted:
            said, ratio = "fitted", ""
        yield (f"| {point.shape}, head at {point.shape.head_places} | {said} | {point.step_ms:.0f} | {ratio} "
               f"| {peak / GIB:.2f} | {point.peak_bytes / GIB:.2f} | {peak / point.peak_bytes:.2f} |")


def h100() -> Iterator[str]:
    """The table of planning/points.py."""
    recipe = recipes.resolve(ROOT / "yaml/lora_finetune.yaml")
    config = recipes.model_config(recipe)
    count = count_parameters(config)
    fitted = [points.TABLE[place] for place in FITTED]
    model = fit(fitted, config, config, "three points", True)
    peaks = [memory.device_memory(recipe, count, point.shape, memory.PYTORCH).total for point in points.TABLE]
    yield from rows(model, points.TABLE, peaks, fitted)


def cpu(rounds: int) -> Iterator[str]:
    """The probe's shapes and others on this machine."""
    recipe = recipes.resolve(ROOT / "yaml/lora_finetune_packed.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"])
    shapes = probe.shapes(recipe)
    others = [run_shape(recipe, count, length, True, recompute) for count, length, recompute in OTHERS]
    with tempfile.TemporaryDirectory() as name:
        found = measured(recipe, [*shapes, *others], rounds, Path(name))
    probed = dataclasses.replace(found, points=found.points[:len(shapes)])
    count = count_parameters(recipes.model_config(recipe))
    peaks = memory.fit_memory(recipe, count, probed.points)
    model = step_sources.from_probe(probed, "", recipe)
    yield from rows(model, found.points, [peaks.total(memory.device_memory(recipe, count, point.shape))
                                          for point in found.points], probed.points)


def measured(recipe: recipes.Recipe, shapes: Sequence[Shape], rounds: int, folder: Path) -> Probe:
    """A probe of these shapes, whose runs took turns.

    Raises:
        SystemExit: A run failed.
    """
    turn = probe_run.TIMED_LINES
    runs = [Run(recipe, shape, folder / str(number), turn * rounds) for number, shape in enumerate(shapes)]
    for lines in range(turn, turn * rounds + 1, turn):
        for run in runs:
            run.go_on(probe_run.warm_up(recipe) + lines)
    found = probe_run.empty_probe(recipe, 1)
    for number, run in enumerate(runs):
        found = probe_run.with_shape(found, run.shape, folder / f"result{number}", run.end)
    if found.failed:
        raise SystemExit(f"shapes failed: {found.failed}")
    return found


class Run:
    """One shape's run in a process of its own, stopped but for its turns."""

    def __init__(self, recipe: recipes.Recipe, shape: Shape, folder: Path, timed: int) -> None:
        folder.mkdir()
        self.shape, self.output = shape, folder / "run"
        options = probe_run.prepare(folder, recipe, shape, 1, timed)
        self.log = folder / "log"
        with open(self.log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen([sys.executable, "research_internlm/run_internlm.py", *options],
                                            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        self.go_on(probe_run.warm_up(recipe))

    def go_on(self, lines: int) -> None:
        """Runs until so many loss lines are written, or to the run's end."""
        self.process.send_signal(signal.SIGCONT)
        log = self.output / TRAIN_LOG
        while self.process.poll() is None and not (log.is_file() and log.read_bytes().count(b"\n") >= lines):
            time.sleep(0.02)
        self.process.send_signal(signal.SIGSTOP)

    def end(self, folder: Path, *_: Any) -> tuple[int, str]:
        """Runs to the end, for probe_run.with_shape: exit code and log."""
        self.process.send_signal(signal.SIGCONT)
        code = self.process.wait()
        shutil.move(self.output, folder / "run")
        return code, self.log.read_text(encoding="utf-8", errors="replace")


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="measure on this machine, too (minutes)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each shape (default: %(default)s)")
    arguments = parser.parse_args(argv)
    print("\n".join(h100()), flush=True)
    if arguments.cpu:
        print("\n" + "\n".join(cpu(arguments.rounds)))
    return 0


if __name__ == "__main__":
    run_main(main)
