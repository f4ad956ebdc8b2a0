"""What rows hold of real questions: how full packed rows are, what is too long for them, labels in a row."""

from __future__ import annotations

import math

import numpy as np

from research_internlm.data.rows import fits, record_length

MEAN_TOKENS = 146  # of 26,244 MMLU and CMMLU questions with InternLM's tokenizer
# Five orderings of 12,496 real questions (62,480 samples, mean 139 tokens) through the converter with --pack:
# seq_length, samples that are longer than a row, share of the rows that is text, most labels in a row.
_MEASURED_SAMPLES = 62_480
_MEASURED = ((256, 2_430, 0.897, 59), (288, 1_770, 0.903, 74), (384, 703, 0.970, 97), (512, 120, 0.988, 127),
             (576, 45, 0.991, 135), (768, 25, 0.996, 154), (1024, 25, 0.998, 184), (2048, 0, 0.999, 341))
_LENGTHS, _OVERLONG, _FILL, _LABELS = map(np.array, zip(*_MEASURED, strict=True))
_SAFE_FILL = 0.99  # no plan counts on more
PADDED_LABELS = 32  # of one sample, an answer with its option's text


def packed_rows(text_tokens: float, seq_length: int) -> int:
    """Rows that `text_tokens` need when whole samples are packed."""
    fill = min(_SAFE_FILL, float(np.interp(seq_length, _LENGTHS, _FILL)))
    return -int(-text_tokens // int(fill * record_length(seq_length)))


def lost(samples: int, seq_length: int, longest: int | None) -> int:
    """Samples longer than a row, in proportion to the real questions'.

    Args:
        samples: Samples of the training file.
        seq_length: Positions of a row.
        longest: Tokens of its longest sample, or None where it is not known.
    """
    if longest is not None and fits(longest, record_length(seq_length)):
        return 0
    return math.ceil(samples / _MEASURED_SAMPLES * float(np.interp(seq_length, _LENGTHS, _OVERLONG)))


def head_places(seq_length: int, packed: bool) -> int:
    """Most labels in a row, which is where head and loss are computed; the data's own where it is known."""
    return min(seq_length, max(1, round(float(np.interp(
        seq_length, [0, *_LENGTHS], [0, *_LABELS]))) if packed else PADDED_LABELS))
