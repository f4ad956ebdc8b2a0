"""Predicted against measured: step times and peak memory, on the H100 table and on this CPU.

    python benchmarks/bench_plan.py [--cpu] [--rounds 2]

The H100 part takes no time: the model is fitted on three of the eleven points and predicts the other eight;
all eleven peaks are predicted. --cpu runs the probe of the tiny packed recipe through the real Trainer, then
six other shapes; each shape is run in `--rounds` turns and the fastest counts, because other load on the
machine moves every number. Memory there is corrected by the probe's peaks, as plan --probe does.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from research_internlm import recipes
from research_internlm.launching import probe_run
from research_internlm.model.lora import count_parameters
from research_internlm.planning import memory, points, step_sources
from research_internlm.planning.cost import StepModel, fit
from research_internlm.planning.cost_table import run_shape
from research_internlm.planning.points import GIB, Point
from research_internlm.planning.probe import Probe
from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
FITTED = (2, 5, 4)  # of the table: 4 x 1024 and 1 x 576 without recomputing, 1 x 576 with it
# rows, length, recompute; none is one of the probe's.
OTHERS = ((2, 256, False), (8, 256, False), (1, 512, False), (4, 512, False), (1, 1024, False),
          (2, 256, True))
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
    """The probe's shapes and six others on this machine."""
    recipe = recipes.resolve(ROOT / "yaml/lora_finetune_packed.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probes = [probe_run.measure(recipe, 1, folder / f"{turn}.json") for turn in range(rounds)]
        others = [_measure(probes[0], recipe, folder / f"others{turn}") for turn in range(rounds)]
    probed = dataclasses.replace(probes[0], points=_fastest([probe.points for probe in probes]))
    found = [*probed.points, *_fastest(others)]
    count = count_parameters(recipes.model_config(recipe))
    peaks = memory.fit_memory(recipe, count, probed.points)
    model = step_sources.from_probe(probed, "", recipe)
    yield from rows(model, found, [peaks.total(memory.device_memory(recipe, count, point.shape))
                                   for point in found], probed.points)


def _measure(probe: Probe, recipe: recipes.Recipe, folder: Path) -> list[Point]:
    folder.mkdir()
    found = dataclasses.replace(probe, points=[])
    for number, (count, length, recompute) in enumerate(OTHERS):
        shape = run_shape(recipe, count, length, True, recompute)
        found = probe_run.with_shape(found, shape, folder / str(number), probe_run.run_workers)
    if found.failed:
        raise SystemExit(f"shapes failed: {found.failed}")
    return found.points


def _fastest(turns: Sequence[Sequence[Point]]) -> list[Point]:
    return [min(same, key=lambda point: point.step_ms) for same in zip(*turns, strict=True)]


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="measure on this machine, too (minutes)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each shape (default: %(default)s)")
    arguments = parser.parse_args(argv)
    print("\n".join(h100()), flush=True)
    if arguments.cpu:
        print("\n" + "\n".join(cpu(arguments.rounds)))
    return 0


if __name__ == "__main__":
    run_main(main)
