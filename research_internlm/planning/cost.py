"""How long a step takes, fitted from measured steps: max(floor, a + b * tokens + c * tokens * length).

tokens and tokens * length are counted in FLOPs (planning/flops.py), so head places, recomputing and the ratio
of a model's weights to its attention come from the shape, and b and c are times a FLOP. The floor is the time
that launching a step's kernels takes, whatever they compute on; recomputing launches more of them, so it has
a floor of its own. Which points lie on a floor, and whether a and a c of its own are needed, is decided by
Akaike's criterion with the spread of repeated measurements; what the points cannot decide becomes a range.

Cards are taken to work at the same time, at no cost for their exchange (the gradients of a LoRA of rank 16 on
a 7B model are 67 MB). Compilation is left out.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from research_internlm.planning import flops
from research_internlm.planning.flops import Shape, Work
from research_internlm.planning.points import Point

SPREAD = 0.03  # of the same shape measured again: 220 to 238 ms on the floor of the H100 table
# A second launch of the forward pass: from half of what a step launches (FLOPs; graph mode) to as much as all
# of it (a host that launches the forward pass kernel by kernel, the backward pass from C++; 1.9 to 2.0
# measured on the H100).
_RECOMPUTED_FLOOR = (1.5, 2.0)
# Difference in Akaike's criterion up to which a fit is not ruled out (Burnham and Anderson 2002, 2.6).
_PLAUSIBLE = 2.0
_SCATTER = 0.12  # relative error at a measured point above which a plan says that it cannot be relied on
# Columns of (1, weights, attention) that a fit may scale on their own; (1, 2) together is time ~ FLOPs.
_STRUCTURES = (((1, 2),), ((0,), (1, 2)), ((1,), (2,)), ((0,), (1,), (2,)))


@dataclass(frozen=True)
class Range:
    """A predicted value and the smallest and largest that the measured points allow."""

    best: float
    low: float
    high: float

    def __mul__(self, factor: float) -> Range:
        return Range(self.best * factor, self.low * factor, self.high * factor)

    def __add__(self, other: Range) -> Range:
        return Range(self.best + other.best, self.low + other.low, self.high + other.high)

    @property
    def is_wide(self) -> bool:
        """Whether the points leave more than 5 % open."""
        return self.high > 1.05 * self.low


@dataclass(frozen=True)
class Fit:
    """One way to read the points.

    Attributes:
        floors: Recompute -> floor in milliseconds; without an entry where no point lies on it.
        rates: Milliseconds of a step, per FLOP through weights, per FLOP of attention.
        score: Akaike's criterion.
        worst: Largest relative error at a measured point.
    """

    floors: Mapping[bool, float]
    rates: tuple[float, float, float]
    score: float = 0.0
    worst: float = 0.0

    def milliseconds(self, work: Work, recompute: bool, share: float = 1.0) -> Range:
        """Time of some work.

        Args:
            work: Its FLOPs.
            recompute: Whether it recomputes.
            share: Share of a step's kernels that it launches.
        """
        slope = self.rates[0] * share + self.rates[1] * work.weights + self.rates[2] * work.attention
        low, high = self._floor(recompute)
        return Range(*(max(slope, share * floor) for floor in ((low + high) / 2, low, high)))

    def _floor(self, recompute: bool) -> tuple[float, float]:
        if recompute in self.floors or not self.floors:
            floor = self.floors.get(recompute, 0.0)
            return floor, floor
        other = self.floors[not recompute]
        low, high = (other * ratio if recompute else other / ratio for ratio in _RECOMPUTED_FLOOR)
        return min(low, high), max(low, high)


@dataclass(frozen=True)
class StepModel:
    """All fits that the points do not rule out, the best first.

    Attributes:
        config: `model.model_config` of the recipe that is predicted.
        fits: The fits.
        shapes: The measured shapes.
        source: Where the points are from, for every line that states a prediction.
        is_probed: Whether they were measured on the user's own device.
    """

    config: Mapping[str, Any]
    fits: tuple[Fit, ...]
    shapes: tuple[Shape, ...]
    source: str
    is_probed: bool

    def step(self, shape: Shape) -> Range:
        """Milliseconds of a training step."""
        work = flops.step(self.config, shape)
        return _joined([fit.milliseconds(work, shape.recompute) for fit in self.fits])

    def forward(self, rows: int, seq_length: int, head_places: int) -> Range:
        """Milliseconds of one forward pass; it launches half of what a step without recomputing does."""
        work = flops.forward(self.config, rows, seq_length, head_places)
        return _joined([fit.milliseconds(work, False, 0.5) for fit in self.fits])

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """What the points cannot tell, a sentence each."""
        texts = []
        if len({(shape.tokens, shape.seq_length, shape.recompute) for shape in self.shapes}) == 1:
            texts.append(f"one measured shape ({self.shapes[0]}) cannot tell the floor from the time a token "
                         "takes: other shapes are given as a range between the two")
        kinds = {shape.recompute for shape in self.shapes}
        if len(kinds) == 1:
            having, lacking = ("with", "without") if True in kinds else ("without", "with")
            texts.append(f"all points were measured {having} recomputing: steps {lacking} it follow from "
                         "FLOPs, and their floor is a range")
        if self.fits[0].worst > _SCATTER:
            texts.append(f"the measured steps scatter: the fit misses one by {self.fits[0].worst:.0%}, and "
                         "so may these hours; measure again while nothing else runs on the machine")
        return tuple(texts)


def _joined(ranges: Sequence[Range]) -> Range:
    return Range(ranges[0].best, min(one.low for one in ranges), max(one.high for one in ranges))


def fit(points: Sequence[Point], measured_config: Mapping[str, Any], config: Mapping[str, Any], source: str,
        is_probed: bool) -> StepModel:
    """Fits the step time.

    Args:
        points: Measured steps, one or more.
        measured_config: `model.model_config` of the model that was measured.
        config: That of the model to predict; its FLOPs cost what the measured one's cost, and its floors
            differ by the number of layers.
        source: Where the points are from.
        is_probed: Whether they were measured on the user's own device.
    """
    works = [flops.step(measured_config, point.shape) for point in points]
    layers = config["num_layers"] / measured_config["num_layers"]
    candidates = sorted(_candidates(points, works), key=lambda pair: (round(pair[0].score, 6), pair[1]))
    best = candidates[0][0].score
    fits = tuple(Fit({kind: floor * layers for kind, floor in found.floors.items()},
                     (found.rates[0] * layers, *found.rates[1:]), found.score, found.worst)
                 for found, _ in candidates if found.score <= best + _PLAUSIBLE)
    return StepModel(config, fits, tuple(point.shape for point in points), source, is_probed)


def _candidates(points: Sequence[Point], works: Sequence[Work]) -> Iterator[tuple[Fit, int]]:
    """Every fit with its place among equally good ones: proportional time first, no slope at all last."""
    kinds = {kind: sorted((place for place, point in enumerate(points) if point.shape.recompute is kind),
                          key=lambda place: works[place].total) for kind in (False, True)}
    for counts in itertools.product(*(range(len(places) + 1) for places in kinds.values())):
        on_floor = {kind: places[:count] for (kind, places), count in zip(kinds.items(), counts, strict=True)}
        floors = {kind: statistics.fmean(points[place].step_ms for place in places)
                  for kind, places in on_floor.items() if places}
        sloped = [place for place in range(len(points)) if not any(place in places
                                                                   for places in on_floor.values())]
        if not sloped:
            yield _scored(points, works, floors, (0.0, 0.0, 0.0), len(floors)), len(_STRUCTURES) + 1
        for order, structure in enumerate(_STRUCTURES):
            # Two points can always be met by any two rates; a rate of attention's own needs a third.
            if len(structure) + ((1, 2) not in structure) <= len(sloped):
                rates = _rates([points[place].step_ms for place in sloped],
                               [works[place] for place in sloped], structure)
                used = sum(any(rates[column] for column in group) for group in structure)
                # Of equally good readings a floor goes before a fixed part.
                yield (_scored(points, works, floors, rates, len(floors) + used),
                       order + (not floors and order > 0))


def _rates(times: Sequence[float], works: Sequence[Work], structure: Sequence[Sequence[int]]
           ) -> tuple[float, float, float]:
    """Non-negative least squares of relative errors."""
    from scipy.optimize import nnls

    columns = np.array([(1.0, work.weights, work.attention) for work in works])
    relative = columns / np.array(times)[:, None]
    joined = np.stack([relative[:, list(group)].sum(axis=1) for group in structure], axis=1)
    size = joined.max(axis=0)
    found, _ = nnls(joined / size, np.ones(len(times)))
    rates = np.zeros(3)
    for group, rate in zip(structure, found / size, strict=True):
        rates[list(group)] = rate
    return tuple(rates.tolist())


def _scored(points: Sequence[Point], works: Sequence[Work], floors: Mapping[bool, float],
            rates: tuple[float, float, float], parameters: int) -> Fit:
    found = Fit(floors, rates)
    errors = [found.milliseconds(work, point.shape.recompute).best / point.step_ms - 1
              for point, work in zip(points, works, strict=True)]
    return Fit(floors, rates, sum((error / SPREAD) ** 2 for error in errors) + 2 * parameters,
               max(map(abs, errors)))
