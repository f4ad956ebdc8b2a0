"""Repairs a MindRecord into a new one: what can be mended is, the rest is left out and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.mindrecord.inspection import (
    DEAD,
    END,
    LABELS,
    LENGTH,
    MEANINGS,
    RAGGED,
    VOCABULARY,
    Rule,
    samples_of,
)
from preprocess.mindrecord.inspection import Sample as Found
from preprocess.mindrecord.packing import Sample
from preprocess.mindrecord.row_counts import RowCounts, make_rows
from preprocess.mindrecord.writer import write_mindrecord
from research_internlm.data.chat_template import prompt_version
from research_internlm.data.families import UPSTREAM_END
from research_internlm.data.manifest import Counts, MindRecordManifest, Part
from research_internlm.data.rows import fits
from research_internlm.data.tokens import IGNORE_ID
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of

_LOST = (RAGGED, VOCABULARY, LABELS)  # an answer was cut, or nothing says what stood there


@dataclass
class Repair(RowCounts):
    """What became of the samples; counts are of those that were written.

    Attributes:
        found: Samples read.
        mended: Samples that got their labels back.
        left_out: Row and problems of each sample that was not written.
        end: How chat answers end.
    """

    found: int = 0
    mended: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)
    end: str = UPSTREAM_END


def mend(sample: Found, rule: Rule) -> Sample | None:
    """A sample's ids and supervised flags, where they are sure; None where something is lost.

    A dead sample whose ids are whole gets the labels of its one answer again: what follows the opening of
    the assistant's turn.
    """
    if sample.problems & {*_LOST} or sample.ids[:1].tolist() != [rule.special["bos"]]:
        return None
    if END in sample.problems:
        return None
    if DEAD not in sample.problems:
        return sample.ids, sample.labels != IGNORE_ID
    size = len(rule.opening)
    windows = np.lib.stride_tricks.sliding_window_view(sample.ids, size) if len(sample.ids) > size else None
    places = [] if windows is None else np.flatnonzero((windows == rule.opening).all(axis=1))
    if len(places) != 1:
        return None
    return sample.ids, np.arange(len(sample.ids)) >= places[0] + size


def mended_rows(rows: Iterable[tuple[np.ndarray, np.ndarray]], rule: Rule, length: int, repair: Repair
                ) -> Iterator[dict[str, np.ndarray]]:
    """Rows of one length with what could be kept.

    Args:
        rows: Of the old file.
        rule: What they are held against.
        length: Row length of the new file.
        repair: Filled while the rows are consumed.

    Yields:
        `input_ids` and `labels` of a row; a row of which nothing is left is left out.
    """
    kept = (_kept(number, samples_of(ids, labels, rule), rule, length, repair)
            for number, (ids, labels) in enumerate(rows, 1))
    yield from make_rows(filter(None, kept), length, repair)


def _kept(number: int, samples: Sequence[Found], rule: Rule, length: int, repair: Repair) -> list[Sample]:
    """The samples of a row that stay, mended where that is needed; the others are listed."""
    kept: list[Sample] = []
    for sample in samples:
        repair.found += 1
        good = mend(sample, rule)
        if good is None or not fits(sum(len(one) for one, _ in kept) + len(good[0]), length):
            reasons = [key for key in MEANINGS if key in sample.problems] or [LENGTH]
            repair.left_out.append({"row": number, "tokens": len(sample.ids), "problems": reasons})
            continue
        repair.mended += DEAD in sample.problems
        kept.append(good)
    if any(rule.special["end_of_user"] in ids for ids, _ in kept):  # a reading question has no chat tokens
        repair.end = rule.end_of(kept[-1][0]) or repair.end
    return kept


def write_repaired(staged: Path, rows: Iterator[dict[str, np.ndarray]], repair: Repair) -> list[Part]:
    """Writes the new file.

    Raises:
        ToolkitError: Nothing is left to write.
    """
    first = next(rows, None)
    if first is None:
        raise ToolkitError(f"none of the {repair.found:,} samples can be kept; convert the items again "
                           "with preprocess/alpaca_data_preprocess_v1.py")

    def all_rows() -> Iterator[dict[str, np.ndarray]]:
        yield first
        yield from rows

    return write_mindrecord(staged, all_rows(), 1, "internlm_alpaca")


def manifest_of(parts: list[Part], files: Iterable[Path], old: MindRecordManifest | None, rule: Rule,
                model_file: str, length: int, packed: bool, repair: Repair) -> MindRecordManifest:
    """The manifest of the new file: what the old one's said of its items, and what was done to them."""
    reasons = Counter(entry["problems"][0] for entry in repair.left_out)
    return MindRecordManifest(
        parts=parts, tool="doctor_data.py", inputs={file.name: sha256_of(file) for file in files},
        tokenizer_sha256=sha256_of(model_file), special_ids=rule.special.manifest_entry(),
        prompt_version=old.prompt_version if old else prompt_version(repair.end),
        wordings=old.wordings if old else [], evaluation_kind=old.evaluation_kind if old else "unknown",
        seq_length=length - 1, record_length=length, packed=packed,
        counts=Counts(in_=repair.found, samples=repair.samples, out=repair.rows, dropped=dict(reasons)),
        dropped=repair.left_out,
        train_on=old.train_on if old else "all",
        tokens=repair.tokens_in(length),
        samples_per_row=repair.samples_per_row(),
        seed=old.seed if old else None)
