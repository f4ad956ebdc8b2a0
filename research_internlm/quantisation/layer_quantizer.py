"""One decoder layer in 4 bits: what its linear layers are given, their scales, and the rounded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from research_internlm.quantisation.awq_format import Groups, quantize
from research_internlm.quantisation.smoothing import Choice, search

SEARCH_TOKENS = 1024  # of the calibration; the magnitudes come from all of it
Read = Callable[[str], np.ndarray]  # float32 by the name within the layer


@dataclass(frozen=True)
class Pair:
    """What feeds linear layers, and which.

    Attributes:
        input: A key of layer_network.INPUTS.
        feeder: The norm or the linear layer whose output they are given.
        linears: The layers of that input.
    """

    input: str
    feeder: str
    linears: tuple[str, ...]

    @property
    def is_norm(self) -> bool:
        """Whether a norm feeds them."""
        return self.feeder.endswith("_norm")


# w3's output times an activation feeds w2, wv's output summed by attention feeds wo: linear in the feeder.
PAIRS = (Pair("qkv", "attention_norm", ("attention.wq", "attention.wk", "attention.wv")),
         Pair("wo", "attention.wv", ("attention.wo",)),
         Pair("gate_up", "ffn_norm", ("feed_forward.w1", "feed_forward.w3")),
         Pair("w2", "feed_forward.w3", ("feed_forward.w2",)))


@dataclass
class Inputs:
    """What a linear layer was given over the calibration.

    Attributes:
        tokens: Tokens seen.
        total: Sum of the magnitudes, float64 (in,).
        some: A part of the inputs, float32 (tokens, in) each.
    """

    tokens: int = 0
    total: np.ndarray | float = 0.0
    some: list[np.ndarray] = field(default_factory=list)

    def see(self, block: np.ndarray, share: float) -> None:
        """Takes inputs (sequences, length, in); keeps about a share of the tokens, evenly spaced."""
        rows = block.reshape(-1, block.shape[-1])
        self.tokens += len(rows)
        self.total = self.total + np.abs(rows).sum(0, dtype=np.float64)
        kept = max(int(len(rows) * share), 1)
        self.some.append(rows[np.linspace(0, len(rows) - 1, kept).astype(int)])

    @property
    def magnitude(self) -> np.ndarray:
        """Mean magnitude of each channel, (in,)."""
        return self.total / self.tokens


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's weights after quantisation.

    Attributes:
        groups: Linear layer -> its weight in 4 bits.
        plain: Every other parameter of the layer, float32.
        choices: What was found for each input; empty without a search.
    """

    groups: dict[str, Groups]
    plain: dict[str, np.ndarray]
    choices: dict[str, Choice]

    def report(self) -> dict[str, Any]:
        """The choices as JSON."""
        return {name: {"ratio": choice.ratio, "error": choice.error, "plain_error": choice.plain_error}
                for name, choice in self.choices.items()}


def quantize_layer(read: Read, names: list[str], group_size: int, inputs: Mapping[str, Inputs] | None
                   ) -> QuantizedLayer:
    """Quantises the linear layers of a decoder layer.

    Args:
        read: Gives the layer's parameters.
        names: Their names within the layer.
        group_size: As for awq_format.quantize.
        inputs: What the linear layers were given, by layer_network.INPUTS; None rounds without scaling.
    """
    columns: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    choices = {}
    for pair in PAIRS if inputs is not None else ():
        columns_fed = read(f"{pair.linears[0]}.weight").shape[1]
        if not pair.is_norm and len(read(f"{pair.feeder}.weight")) < columns_fed:
            continue  # grouped-query attention: a value head feeds several heads of wo
        choice = _search(pair, read, group_size, inputs[pair.input])
        choices[pair.input] = choice
        if choice.scales is not None:
            columns |= dict.fromkeys(pair.linears, choice.scales)
            rows[pair.feeder] = choice.scales
    linears = {linear for pair in PAIRS for linear in pair.linears}
    groups, plain = {}, {}
    for name in names:
        cell, _, kind = name.rpartition(".")
        value = read(name)
        if cell in rows:  # what feeds a scaled layer, its bias too
            value = value / (rows[cell][:, None] if value.ndim == 2 else rows[cell])
        if cell in linears and kind == "weight":
            groups[cell] = quantize(value * columns[cell] if cell in columns else value, group_size)
        else:
            plain[name] = value
    return QuantizedLayer(groups, plain, choices)


def _search(pair: Pair, read: Read, group_size: int, seen: Inputs) -> Choice:
    weights = [read(f"{linear}.weight") for linear in pair.linears]
    fixed = read(f"{pair.feeder}.weight") == 0 if pair.is_norm else None
    return search(weights, np.concatenate(seen.some), seen.magnitude, group_size, fixed)
