"""probe.json: steps measured on the user's own device, and the choice of shapes that tells most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from research_internlm import recipes
from research_internlm.planning.flops import Shape
from research_internlm.planning.lengths import head_places
from research_internlm.planning.points import Point
from research_internlm.shared import schema

_PROBE_AGAIN = "make it again with bash scripts/probe.sh"
_LEAST_LENGTH = 32
_FLOOR_SHARE = 8  # the short rows are an eighth of the recipe's


@dataclass(frozen=True, kw_only=True)
class Probe:
    """probe.json.

    Attributes:
        recipe: The resolved recipe that was run, its shape aside.
        recipe_sha256: Of the recipe and the number of workers: points of another are not comparable.
        workers: Data-parallel workers that ran at the same time.
        device: What the steps ran on.
        memory: Whose peak it is: of the device's memory as MindSpore counts it, or, on a CPU, of the resident
            memory of rank 0's process.
        versions: Package -> version.
        date: Local date.
        points: Measured shapes.
        save_bytes_per_second: What rank 0 wrote of a checkpoint in a second; None in a probe made before it
            was measured.
        failed: Shapes that did not run -> why, e.g. out of memory.
    """

    recipe: dict[str, Any]
    recipe_sha256: schema.Sha256
    workers: int
    device: str
    memory: Literal["device", "resident"]
    versions: dict[str, str]
    date: str
    points: list[Point]
    save_bytes_per_second: float | None = None
    failed: dict[str, str] = field(default_factory=dict)


def read_probe(path: str | Path) -> Probe:
    """Reads a probe.

    Raises:
        ToolkitError: It is missing or not valid.
    """
    return schema.read(path, Probe, "the probe", _PROBE_AGAIN)


def recipe_sha256(recipe: Mapping[str, Any], workers: int) -> str:
    """Identity of what a probe measures."""
    text = json.dumps([recipe, workers], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def shapes(recipe: Mapping[str, Any]) -> list[Shape]:
    """Five shapes around the recipe's own that separate what a step's time is made of.

    The short rows lie on the floor where there is one, with and without recomputing; the rows of the recipe,
    four or more of them, tell the time of a token; the same number of positions in a fourth of the rows tells
    attention's, with twice the difference that half of the rows would have; one shape lies between. Short
    rows come in pairs, because a single one leaves cores of a CPU idle. The order is that of the memory they
    need.
    """
    config = recipes.model_config(recipe)
    length, rows = config["seq_length"], max(4, recipe["runner_config"]["batch_size"] // 4 * 4)
    short = max(_LEAST_LENGTH, length // _FLOOR_SHARE)
    return [_shape(config, 2, short, True), _shape(config, 2, short, False),
            _shape(config, 2, max(short, length // 2), False), _shape(config, rows, length, False),
            _shape(config, rows // 4, 4 * length, False)]


def _shape(config: Mapping[str, Any], rows: int, length: int, recompute: bool) -> Shape:
    packed = bool(config.get("packed"))
    places = length if config.get("labels_per_row") == 0 else head_places(length, packed)
    return Shape(rows=rows, seq_length=length, packed=packed, recompute=recompute, head_places=places)
