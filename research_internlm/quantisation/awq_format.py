"""Groups of weights in a few bits, and the AWQ GEMM layout of Hugging Face. numpy alone.

Source of the layout: AutoAWQ, awq/modules/linear/gemm.py and awq/utils/packing_utils.py; LMDeploy and vLLM
read the same. Rows of a weight are its outputs, columns its inputs, as everywhere in this toolkit; the
layout's own tensors are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BITS = 4
PER_WORD = 32 // BITS  # values in an int32
_LEVELS = (1 << BITS) - 1
_ROWS = 512  # rounded at a time, so that no copy of a whole weight is made
_LEAST_RANGE = 1e-5  # of a group: one of equal weights must not divide by 0
# Nibble i of a word, from its low end, holds column order[i] of eight neighbours.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = ("qweight", "qzeros", "scales")
GROUP_ARRAYS = ("numbers", "zeros", "scales")  # the fields of Groups


@dataclass(frozen=True)
class Groups:
    """A weight in 4 bits; a value is (number - zero) * scale.

    Attributes:
        numbers: uint8 (out, in), 0 to 15.
        zeros: uint8 (out, in / group), 0 to 15.
        scales: float16 (out, in / group), above 0.
    """

    numbers: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray

    def values(self) -> np.ndarray:
        """The weight again, float16 (out, in), computed as AutoAWQ does: a whole number times a float16."""
        rows, columns = self.numbers.shape
        grouped = self.numbers.reshape(rows, self.zeros.shape[1], -1).astype(np.int16)
        whole = (grouped - self.zeros[:, :, None]).astype(np.float16)
        return (whole * self.scales[:, :, None]).reshape(rows, columns)


def quantize(weight: np.ndarray, group_size: int) -> Groups:
    """Rounds a weight to 16 levels a group of neighbours in a row, asymmetrically.

    The range of a group is widened to hold 0, so its zero lies on the 16 levels whatever the signs. A group
    of one sign would otherwise need a zero outside them: unclamped it overflows its nibble (LMDeploy 0.2.1),
    clamped its weights are far off (LMDeploy and AutoAWQ today). For groups of both signs nothing changes.

    Args:
        weight: Float32 (out, in); `group_size` divides the columns.
        group_size: Neighbouring columns that share a scale and a zero.
    """
    blocks = [_quantize_rows(weight[start:start + _ROWS], group_size)
              for start in range(0, len(weight), _ROWS)]
    return Groups(*(np.concatenate(parts) for parts in zip(
        *((block.numbers, block.zeros, block.scales) for block in blocks), strict=True)))


def _quantize_rows(weight: np.ndarray, group_size: int) -> Groups:
    grouped = weight.reshape(len(weight), -1, group_size)
    low = np.minimum(grouped.min(-1), 0)
    high = np.maximum(grouped.max(-1), 0)
    # Rounded before use, so that the numbers fit the scale that is stored.
    scales = (np.maximum(high - low, _LEAST_RANGE) / _LEVELS).astype(np.float16)
    steps = scales.astype(np.float32)
    zeros = np.clip(-np.rint(low / steps), 0, _LEVELS)
    numbers = np.clip(np.rint(grouped / steps[:, :, None]) + zeros[:, :, None], 0, _LEVELS)
    return Groups(numbers.reshape(weight.shape).astype(np.uint8), zeros.astype(np.uint8), scales)


def pack(numbers: np.ndarray) -> np.ndarray:
    """Packs eight neighbouring columns into a word: (rows, columns) 0 to 15 -> int32 (rows, columns / 8)."""
    eight = numbers.reshape(len(numbers), -1, PER_WORD).astype(np.uint32)
    words = np.zeros(eight.shape[:2], np.uint32)
    for place, column in enumerate(_ORDER):
        words |= eight[:, :, column] << np.uint32(BITS * place)
    return words.view(np.int32)


def unpack(words: np.ndarray) -> np.ndarray:
    """The opposite of `pack`: int32 (rows, words) -> uint8 (rows, 8 * words)."""
    bits = np.ascontiguousarray(words).view(np.uint32)
    eight = np.empty((*bits.shape, PER_WORD), np.uint8)
    for place, column in enumerate(_ORDER):
        eight[:, :, column] = bits >> np.uint32(BITS * place) & _LEVELS
    return eight.reshape(len(bits), -1)


def to_gemm(groups: Groups) -> dict[str, np.ndarray]:
    """The three tensors of a linear layer: `qweight`, `qzeros` and `scales`."""
    return {"qweight": pack(np.ascontiguousarray(groups.numbers.T)),
            "qzeros": pack(np.ascontiguousarray(groups.zeros.T)),
            "scales": np.ascontiguousarray(groups.scales.T)}


def from_gemm(tensors: Mapping[str, np.ndarray]) -> Groups:
    """The groups of a linear layer's three tensors."""
    return Groups(*(np.ascontiguousarray(part.T) for part in (
        unpack(tensors["qweight"]), unpack(tensors["qzeros"]), tensors["scales"])))
