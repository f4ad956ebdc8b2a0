"""Several answers at once that begin and end at different times (continuous batching).

Each row of the static key-value cache holds one sequence. A row that has ended takes the next prompt while
the others go on, so nobody waits for the longest answer of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research_internlm.data.tokens import PAD_ID

_SHORTEST = 32  # prompts are padded to it, or to it doubled a few times; each length is compiled once


class RowDecoder:
    """A decoder whose rows are sequences of their own.

    Args:
        decoder: A StaticCacheDecoder that nobody else uses.
        rows: Its batch size.

    Attributes:
        rows: Sequences there is room for.
        seq_length: Longest of them, prompt and answer together, in tokens.
    """

    def __init__(self, decoder: Any, rows: int) -> None:
        self._decoder = decoder
        self.rows, self.seq_length = rows, decoder.seq_length
        # A row without a sequence computes too, at its position 0, unread; a prompt overwrites all of it.
        self._ids = np.full((rows, self.seq_length), PAD_ID, np.int32)
        self._positions = np.zeros(rows, np.int32)

    def admit(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """Reads prompts into rows.

        Args:
            prompts: Row -> token ids, at least one and at most `seq_length`.

        Returns:
            Row -> float32 logits (vocab_size,) of the token that follows.
        """
        if not prompts:
            return {}
        length = padded_length(max(map(len, prompts.values())), self.seq_length)
        rows = list(prompts)
        # Two shapes a length are compiled: one prompt, and as many as there are rows.
        count = 1 if len(rows) == 1 else self.rows
        placed = np.array(rows + [rows[-1]] * (count - len(rows)))
        for row, ids in prompts.items():
            self._ids[row] = PAD_ID
            self._ids[row, :len(ids)] = ids
            self._positions[row] = len(ids)
        logits = self._decoder.logits(self._ids[placed, :length], self._positions[placed], placed)
        return dict(zip(rows, logits, strict=False))

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Appends a token to some rows.

        Args:
            tokens: Row -> the token chosen; a row that is full (`seq_length`) takes none.

        Returns:
            Row -> float32 logits (vocab_size,) of the token that follows.
        """
        active = np.array(list(tokens))
        self._ids[active, self._positions[active]] = list(tokens.values())
        idle = np.setdiff1d(np.arange(self.rows), active)
        self._positions[idle] = 0
        logits = self._decoder.next_logits(self._ids, self._positions)
        self._positions[active] += 1
        return {row: logits[row] for row in tokens}


def padded_length(tokens: int, most: int) -> int:
    """The compiled length that takes so many tokens."""
    length = _SHORTEST
    while length < tokens:
        length *= 2
    return min(length, most)
