"""Which input channels of a linear layer are made larger before it is rounded (AWQ). numpy alone.

Rounding hurts most where the inputs are large. AWQ (Lin et al., 2023) multiplies such columns of the weight
by s and divides what feeds them by s, which changes nothing but the rounding. What feeds a linear layer here
is a norm or another linear layer, so the division goes into their weights and biases and costs nothing later.

Scales are LMDeploy's (lmdeploy/lite/quantization/awq.py), the search is AutoAWQ's formula: the ratio r whose
s = act^r / w^(1-r) makes |Q(W s)(X / s) - W X| smallest. Beside the twenty ratios, leaving the weights as
they are is a candidate, so on the tokens of the search the result is never worse than plain rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from research_internlm.quantisation.awq_format import quantize

RATIOS = tuple(number / 20 for number in range(20))
_LEAST = 1e-4
_ROWS = 512  # rounded at a time


@dataclass(frozen=True)
class Choice:
    """What the search found for the linear layers of one input.

    Attributes:
        scales: Float32 (in,), by which columns are multiplied; None leaves them as they are.
        ratio: r; None with `scales` None.
        error: Mean squared error of the outputs after rounding.
        plain_error: The same without scales.
    """

    scales: np.ndarray | None
    ratio: float | None
    error: float
    plain_error: float


def weight_importance(weights: Sequence[np.ndarray], group_size: int) -> np.ndarray:
    """Mean over the rows of |W| relative to the largest of its group, (in,), for all layers of an input."""
    total = np.zeros(weights[0].shape[1])
    for block in _row_blocks(weights):
        grouped = np.abs(block).reshape(len(block), -1, group_size)
        largest = np.maximum(grouped.max(-1, keepdims=True), np.finfo(np.float32).tiny)
        total += (grouped / largest).reshape(block.shape).sum(0)
    return total / sum(map(len, weights))


def _row_blocks(weights: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """A few rows at a time, so that no copy of a whole weight is made."""
    for weight in weights:
        for start in range(0, len(weight), _ROWS):
            yield weight[start:start + _ROWS]


def channel_scales(activation: np.ndarray, importance: np.ndarray, ratio: float) -> np.ndarray:
    """Scales of the input channels for a ratio, the product of largest and smallest 1.

    Args:
        activation: Mean magnitude of each input channel (in,).
        importance: Of `weight_importance`.
        ratio: How much the activation counts against the weight, 0 to below 1.
    """
    scales = np.maximum(activation, _LEAST) ** ratio / np.maximum(importance, _LEAST) ** (1 - ratio)
    scales = np.maximum(scales, _LEAST)
    return (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)


def search(weights: Sequence[np.ndarray], inputs: np.ndarray, activation: np.ndarray, group_size: int,
           fixed: np.ndarray | None = None) -> Choice:
    """Finds the scales of the linear layers that share an input.

    Args:
        weights: Float32 (out, in) each.
        inputs: Some inputs of theirs, float32 (tokens, in).
        activation: Mean magnitude of each input channel over all tokens, (in,).
        group_size: As for `quantize`.
        fixed: Channels that keep the scale 1, bool (in,): a norm's weight is 0 there.
    """
    importance = weight_importance(weights, group_size)
    plain = rounding_error(weights, inputs, None, group_size)
    best = Choice(None, None, plain, plain)
    for ratio in RATIOS:
        scales = channel_scales(activation, importance, ratio)
        if fixed is not None:
            scales[fixed] = 1
        if (error := rounding_error(weights, inputs, scales, group_size)) < best.error:
            best = Choice(scales, ratio, error, plain)
    return best


def rounding_error(weights: Sequence[np.ndarray], inputs: np.ndarray, scales: np.ndarray | None,
                   group_size: int) -> float:
    """Mean squared error of the outputs where weights are rounded after their columns took these scales."""
    total = 0.0
    for block in _row_blocks(weights):
        scaled = block if scales is None else block * scales
        error = quantize(scaled, group_size).values().astype(np.float32) - scaled
        if scales is not None:
            error /= scales
        outputs = inputs @ error.T
        total += float(np.vdot(outputs, outputs))
    return total / (len(inputs) * sum(map(len, weights)))
