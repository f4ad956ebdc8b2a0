"""Repairs a MindRecord into a new one: what can be mended is, the rest is left out and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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
from preprocess.mindrecord.writer import write_mindrecord
from research_internlm.data.chat_template import prompt_version
from research_internlm.data.families import UPSTREAM_END
from research_internlm.data.manifest import Counts, MindRecordManifest, Part, SamplesPerRow, Tokens
from research_internlm.data.rows import fits, make_records
from research_internlm.data.tokens import IGNORE_ID
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of

_LOST = (RAGGED, VOCABULARY, LABELS)  # an answer was cut, or nothing says what stood there


@dataclass
class Repair:
    """What became of the samples.

    Attributes:
        samples: Samples read.
        mended: Samples that got their labels back.
        left_out: Row and problems of each sample that was not written.
        rows: Rows written, `tokens` and `supervised` tokens in them.
        longest: Tokens of the longest sample, `longest_answer` most supervised ones in a row.
        fullest: Most samples in a row.
        end: How chat answers end.
    """

    samples: int = 0
    mended: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    longest_answer: int = 0
    fullest: int = 0
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
    for number, (ids, labels) in enumerate(rows, 1):
        kept = []
        for sample in samples_of(ids, labels, rule):
            repair.samples += 1
            good = mend(sample, rule)
            if good is None or not fits(sum(len(one) for one, _ in kept) + len(good[0]), length):
                reasons = [key for key in MEANINGS if key in sample.problems] or [LENGTH]
                repair.left_out.append({"row": number, "tokens": len(sample.ids), "problems": reasons})
                continue
            repair.mended += DEAD in sample.problems
            repair.longest = max(repair.longest, len(good[0]))
            kept.append(good)
        if not kept:
            continue
        joined = tuple(map(np.concatenate, zip(*kept, strict=True)))
        record = {name: value[0] for name, value in make_records([joined], length).items()}
        answers = int((record["labels"] != IGNORE_ID).sum())
        repair.rows += 1
        repair.tokens += len(joined[0])
        repair.supervised += answers
        repair.longest_answer = max(repair.longest_answer, answers)
        repair.fullest = max(repair.fullest, len(kept))
        if rule.special["end_of_user"] in joined[0]:  # a reading question has no chat tokens
            repair.end = rule.end_of(joined[0]) or repair.end
        yield record


def write_repaired(staged: Path, rows: Iterator[dict[str, np.ndarray]], repair: Repair) -> list[Part]:
    """Writes the new file.

    Raises:
        ToolkitError: Nothing is left to write.
    """
    first = next(rows, None)
    if first is None:
        raise ToolkitError(f"none of the {repair.samples:,} samples can be kept; convert the items again "
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
        counts=Counts(in_=repair.samples, samples=repair.samples - len(repair.left_out), out=repair.rows,
                      dropped=dict(reasons)),
        dropped=repair.left_out,
        train_on=old.train_on if old else "all",
        tokens=Tokens(total=repair.tokens, supervised=repair.supervised,
                      padding=repair.rows * length - repair.tokens, longest=repair.longest,
                      longest_answer=repair.longest_answer,
                      fill=round(repair.tokens / (repair.rows * length), 6)),
        samples_per_row=SamplesPerRow(mean=round((repair.samples - len(repair.left_out)) / repair.rows, 4),
                                      max=repair.fullest),
        seed=old.seed if old else None)
