"""The owner of the record rule: how a sample becomes one row of a MindRecord.

A row has a fixed length L. Training rows have L = seq_length + 1, because MindFormers' Llama drops the
last input and the first label itself; validation rows have L = seq_length, made by asking for one less
(the in-training evaluation does not shift). A sample of n tokens, `</s>` included, fits when n <= L.

The converter everyone starts from is wrong at the boundary: at n = L it silences the whole sample, above
it cuts the answer off (docs/traps.md#row-boundary). Here a sample either goes in whole or is refused, so a
row always ends in a supervised end token followed by padding only.

A packed row holds several whole samples, one after the other, padding after the last. Each sample starts
with `<s>`, which occurs nowhere else (encoding text never gives it) and has no label; so `<s>` tells where a
sample begins, for both prompt families, and no label of one sample is predicted from another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from research_internlm.data.tokens import IGNORE_ID, PAD_ID

SCHEMA = {
    "input_ids": {"type": "int32", "shape": [-1]},
    "labels": {"type": "int32", "shape": [-1]},
}


def record_length(seq_length: int) -> int:
    """Row length L for a `--seq_length` argument: one more, for the shift inside the model."""
    return seq_length + 1


def fits(token_count: int, length: int) -> bool:
    """Whether a sample of `token_count` tokens, `</s>` included, goes into a row of `length`."""
    return token_count <= length


def make_records(samples: Sequence[tuple[Sequence[int], Sequence[bool]]], length: int
                 ) -> dict[str, np.ndarray]:
    """Pads encoded samples, each of one row (several joined ones count as one), to rows.

    Args:
        samples: For each row its token ids, n of them, `</s>` included, and whether each is trained on.
        length: Row length L; n <= L.

    Returns:
        `input_ids` and `labels`, int32 of shape (rows, L). Labels stand at the same index as their token
        (not shifted) and are -100 where nothing is to be learned.

    Raises:
        ValueError: A sample does not fit or has nothing supervised (callers check both before).
    """
    counts = np.array([len(ids) for ids, _ in samples])
    if not fits(counts.max(), length):
        raise ValueError(f"sample of {counts.max()} tokens in a row of {length}")
    ids, supervised = (np.concatenate(part) for part in zip(*samples, strict=True))
    taken = np.arange(length) < counts[:, None]
    input_ids = np.full(taken.shape, PAD_ID, dtype=np.int32)
    labels = np.full(taken.shape, IGNORE_ID, dtype=np.int32)
    input_ids[taken] = ids
    labels[taken] = np.where(supervised, ids, IGNORE_ID)
    if not (labels != IGNORE_ID).any(axis=1).all():
        raise ValueError("sample with no supervised token")
    return {"input_ids": input_ids, "labels": labels}
