"""The work of a LoRA training step, from the model's shape alone.

A step is a forward pass, a backward pass without gradients of the frozen weights, and with recomputing one
more forward pass of the decoder layers. Multiplying with a weight costs 2 FLOPs a weight and position, its
activation gradient the same again. Attention multiplies queries with keys and scores with values over the
whole row, 4 * hidden * length FLOPs a position forward and twice that backward (a mask saves nothing in
dense attention). Norms, rotations and the optimizer are left out: their share is absorbed by the measured
rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research_internlm import recipes
from research_internlm.model.shape import layer_linears
from research_internlm.planning.lengths import head_places


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a step of one card computes on.

    Attributes:
        rows: Rows of the step.
        seq_length: Positions of a row.
        packed: Whether a row holds several samples.
        recompute: Whether the layers' activations are computed again in the backward pass.
        head_places: Positions of a row at which head and loss are computed.
    """

    rows: int
    seq_length: int
    packed: bool
    recompute: bool
    head_places: int

    @property
    def tokens(self) -> int:
        """Positions of the step, padding included."""
        return self.rows * self.seq_length

    def __str__(self) -> str:
        return (f"{self.rows} x {self.seq_length} {'packed' if self.packed else 'padded'}"
                f"{', recompute' if self.recompute else ''}")


@dataclass(frozen=True)
class Work:
    """FLOPs of a pass or a step.

    Attributes:
        weights: In products with weights, proportional to the tokens.
        attention: In attention, proportional to tokens x row length.
    """

    weights: float
    attention: float

    @property
    def total(self) -> float:
        """Both."""
        return self.weights + self.attention


def shape_of(recipe: Mapping[str, Any]) -> Shape:
    """The shape of a resolved recipe's step; head places are estimated where it has no labels_per_row."""
    config = recipes.model_config(recipe)
    length, packed = config["seq_length"], bool(config.get("packed"))
    places = config.get("labels_per_row")
    if places is None:
        places = head_places(length, packed)
    return Shape(rows=recipe["runner_config"]["batch_size"], seq_length=length, packed=packed,
                 recompute=bool((recipe.get("recompute_config") or {}).get("recompute")),
                 head_places=min(places, length) or length)


def forward(config: Mapping[str, Any], rows: int, seq_length: int, places: int) -> Work:
    """One forward pass.

    Args:
        config: The recipe's `model.model_config`.
        rows: Rows.
        seq_length: Positions of a row.
        places: Positions of a row at which the head is computed.
    """
    layers, head = _layers(config, rows, seq_length), _head(config, rows * places)
    return Work(layers.weights + head, layers.attention)


def step(config: Mapping[str, Any], shape: Shape) -> Work:
    """A whole training step."""
    layers = _layers(config, shape.rows, shape.seq_length)
    head = _head(config, shape.rows * shape.head_places)
    # Without adapters the backward pass computes the weights' gradients, too.
    gradients = 1 if config.get("pet_config") else 2
    again = int(shape.recompute)
    return Work((1 + again + gradients) * layers.weights + (1 + gradients) * head,
                (1 + again + 2) * layers.attention)


def _layers(config: Mapping[str, Any], rows: int, seq_length: int) -> Work:
    weights = sum(linear.in_channels * linear.out_channels for linear in layer_linears(config))
    positions = config["num_layers"] * rows * seq_length
    return Work(2 * positions * weights, 4 * positions * config["hidden_size"] * seq_length)


def _head(config: Mapping[str, Any], places: int) -> float:
    return 2 * places * config["vocab_size"] * config["hidden_size"]
