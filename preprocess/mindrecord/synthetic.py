"""Rows of made-up samples, for rehearsals and benchmarks: no csv, no tokenizer.

The lengths are those of real questions, so padding and fill are too. Ids are random, which costs the same as
text and lets the vocabulary have any size; the answer is always the same, so a few steps can learn it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocess.mindrecord.packing import Sample, pack
from preprocess.mindrecord.writer import write_mindrecord
from research_internlm.data.chat_template import PROMPT_VERSION
from research_internlm.data.manifest import Counts, MindRecordManifest, SamplesPerRow, Tokens
from research_internlm.data.rows import SCHEMA, make_records, record_length
from research_internlm.shared.files import write_manifest
from research_internlm.shared.schema import to_json

# Share of the samples -> tokens: 58,446 samples of real MMLU and CMMLU questions with InternLM's tokenizer,
# mean 138. Scaled to the mean of 26,244 questions.
SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1)
TOKENS = (83, 92, 104, 121, 153, 195, 236, 334, 390, 528, 1071)
MEAN_TOKENS, ANSWER_TOKENS = 146, 16
BOS, EOS, FIRST_FREE = 1, 2, 3


def samples(count: int, vocab_size: int, longest: int) -> list[Sample]:
    """Makes samples of real lengths; the labels are on the answer, the last 16 tokens.

    Args:
        count: Number of samples.
        vocab_size: Ids lie below it; at least 20.
        longest: Tokens of the longest sample.
    """
    random = np.random.default_rng(0)
    lengths = np.interp((np.arange(count) + 0.5) / count, SHARES, TOKENS)
    made = []
    for length in np.minimum(lengths * MEAN_TOKENS / lengths.mean(), longest).astype(int):
        ids = random.integers(FIRST_FREE, vocab_size, length).astype(np.int32)
        ids[-ANSWER_TOKENS:] = np.arange(FIRST_FREE, FIRST_FREE + ANSWER_TOKENS)
        ids[0], ids[-1] = BOS, EOS
        made.append((ids, np.arange(length) >= length - ANSWER_TOKENS))
    return made


def equal_rows(rows: int, seq_length: int, packed: bool, labels: int, vocab_size: int) -> list[list[Sample]]:
    """Samples of each of some equal rows: full packed rows, or one sample of 146 tokens in each padded row.

    Args:
        rows: Rows to fill.
        seq_length: Positions of a row.
        packed: Whether a row holds as many samples as fit; they share its length evenly.
        labels: Supervised tokens of a row.
        vocab_size: Ids are below it.
    """
    random = np.random.default_rng(0)
    length = record_length(seq_length)
    count = max(1, length // MEAN_TOKENS) if packed else 1
    ends = ([length * number // count for number in range(count + 1)] if packed
            else [0, min(MEAN_TOKENS, length)])
    found = []
    for _ in range(rows):
        row = []
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            ids = random.integers(FIRST_FREE, vocab_size, end - start).astype(np.int32)
            ids[0], ids[-1] = BOS, EOS
            own = max(1, min(len(ids) - 1, labels * (number + 1) // count - labels * number // count))
            row.append((ids, np.arange(len(ids)) >= len(ids) - own))
        found.append(row)
    return found


def write_rows(path: Path, made: Sequence[Sample], seq_length: int, vocab_size: int, packed: bool) -> int:
    """Writes samples as the converter would, padded or packed, with the manifest that training asks for.

    Args:
        path: `F.mindrecord`.
        made: The samples.
        seq_length: The converter's `--seq_length`: rows have one token more.
        vocab_size: Noted in the manifest.
        packed: Whether a row holds several samples.

    Returns:
        The number of rows.
    """
    groups = list(pack(made, record_length(seq_length), seed=0)) if packed else [[sample] for sample in made]
    return write_groups(path, groups, seq_length, vocab_size, packed)


def write_groups(path: Path, groups: Sequence[Sequence[Sample]], seq_length: int, vocab_size: int,
                 packed: bool) -> int:
    """The same for samples that are grouped into rows already."""
    length, found = record_length(seq_length), [sample for group in groups for sample in group]
    joined = [tuple(map(np.concatenate, zip(*group, strict=True))) for group in groups]
    rows = [dict(zip(SCHEMA, row, strict=True))
            for row in zip(*make_records(joined, length).values(), strict=True)]
    tokens = sum(len(ids) for ids, _ in found)
    labels = [int((row["labels"] >= 0).sum()) for row in rows]
    write_manifest(path, **to_json(MindRecordManifest(
        parts=write_mindrecord(path, iter(rows), 1, "internlm_alpaca"), tool=Path(__file__).name, inputs={},
        tokenizer_sha256="", special_ids={"bos": BOS, "eos": EOS, "vocab_size": vocab_size},
        prompt_version=PROMPT_VERSION, evaluation_kind="unknown", seq_length=seq_length, record_length=length,
        packed=packed, counts=Counts(in_=len(found), samples=len(found), out=len(rows), dropped={}),
        dropped=[], tokens=Tokens(
            total=tokens, supervised=sum(labels), padding=len(rows) * length - tokens,
            longest=max(len(ids) for ids, _ in found), longest_answer=max(labels),
            fill=tokens / len(rows) / length),
        samples_per_row=SamplesPerRow(mean=len(found) / len(rows), max=max(map(len, groups))))))
    return len(rows)
