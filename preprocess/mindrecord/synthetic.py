"""Rows whose ids mean nothing: what a step costs depends on their shape alone."""

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

BOS, EOS, FIRST_FREE = 1, 2, 3
SAMPLE = 146  # tokens, the mean of real questions


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
    count = max(1, length // SAMPLE) if packed else 1
    ends = [length * number // count for number in range(count + 1)] if packed else [0, min(SAMPLE, length)]
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


def write_rows(path: Path, found: Sequence[Sample], seq_length: int, vocab_size: int, packed: bool) -> None:
    """Writes samples as the converter would, padded or packed, with the manifest training asks for.

    Args:
        path: The data set.
        found: The samples.
        seq_length: Positions of a row.
        vocab_size: The model's.
        packed: Whether to pack them.
    """
    length = record_length(seq_length)
    groups = list(pack(found, length, seed=0)) if packed else [[sample] for sample in found]
    write_groups(path, groups, seq_length, vocab_size, packed)


def write_groups(path: Path, groups: Sequence[Sequence[Sample]], seq_length: int, vocab_size: int,
                 packed: bool) -> None:
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
