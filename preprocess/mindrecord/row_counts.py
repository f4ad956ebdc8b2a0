"""Rows made of samples, and what is counted of them for the manifest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from preprocess.mindrecord.packing import Sample
from research_internlm.data.manifest import SamplesPerRow, Tokens
from research_internlm.data.rows import make_records
from research_internlm.data.tokens import IGNORE_ID

_ROWS_AT_ONCE = 512


@dataclass
class RowCounts:
    """The rows written.

    Attributes:
        rows: How many.
        samples: Samples in them.
        tokens: Tokens of all samples, and `supervised` those with a label.
        longest: Tokens of the longest sample.
        longest_answer: Most supervised tokens in one row.
        fullest: Most samples in one row.
    """

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    longest_answer: int = 0
    fullest: int = 0

    def tokens_in(self, length: int) -> Tokens:
        """The manifest's tokens, of rows of `length`."""
        places = self.rows * length
        return Tokens(total=self.tokens, supervised=self.supervised, padding=places - self.tokens,
                      longest=self.longest, longest_answer=self.longest_answer,
                      fill=round(self.tokens / places, 6))

    def samples_per_row(self) -> SamplesPerRow:
        """The manifest's samples a row."""
        return SamplesPerRow(mean=round(self.samples / self.rows, 4), max=self.fullest)


def make_rows(groups: Iterable[Sequence[Sample]], length: int, counts: RowCounts
              ) -> Iterator[dict[str, np.ndarray]]:
    """Joins the samples of a row and pads its end.

    Args:
        groups: The samples of each row, one or more, together at most `length` tokens.
        length: Row length.
        counts: Filled while the rows are consumed.

    Yields:
        Rows of `length` tokens.
    """
    groups = iter(groups)
    while batch := list(itertools.islice(groups, _ROWS_AT_ONCE)):
        joined = [group[0] if len(group) == 1 else tuple(map(np.concatenate, zip(*group, strict=True)))
                  for group in batch]
        records = make_records(joined, length)
        answers = (records["labels"] != IGNORE_ID).sum(axis=1)
        counts.rows += len(batch)
        counts.samples += sum(map(len, batch))
        counts.tokens += sum(len(ids) for ids, _ in joined)
        counts.supervised += int(answers.sum())
        counts.longest = max(counts.longest, *(len(ids) for group in batch for ids, _ in group))
        counts.longest_answer = max(counts.longest_answer, int(answers.max()))
        counts.fullest = max(counts.fullest, *map(len, batch))
        for row in zip(*records.values(), strict=True):
            yield dict(zip(records, row, strict=True))
