"""What a conversion made of the items: counted, printed, and noted in the manifest."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.mindrecord.row_counts import RowCounts
from research_internlm.data.chat_template import prompt_version
from research_internlm.data.detection import DETECTION_WORDING, FORMS_OF_TEXT
from research_internlm.data.item_files import READING
from research_internlm.data.items import SQUAD_WORDING
from research_internlm.data.manifest import (
    Counts,
    DataManifest,
    MindRecordManifest,
    Part,
)
from research_internlm.data.rows import record_length
from research_internlm.data.tokens import SpecialTokens
from research_internlm.shared.files import sha256_of


@dataclass
class Statistics(RowCounts):
    """What happened to the items.

    Attributes:
        items: Items read.
        overlong: Every dropped item with its length.
        shortened: Every conversation that lost exchanges, with its length before and their number.
        forms: Items read by their form.
        cut_texts: Texts to be judged that lost a part, by their form.
    """

    items: int = 0
    overlong: list[dict[str, Any]] = field(default_factory=list)
    shortened: list[dict[str, Any]] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    cut_texts: Counter[str] = field(default_factory=Counter)


def report(statistics: Statistics, length: int, output: Path) -> None:
    """Prints the counts and how full the rows are."""
    forms = ", ".join(f"{count} {form}" for form, count in statistics.forms.most_common())
    dropped, rows = len(statistics.overlong), statistics.rows
    print(f"{statistics.samples + dropped} items in = {statistics.samples} samples in {rows} rows + "
          f"{dropped} dropped (longer than {length} tokens) -> {output}")
    for entry in statistics.overlong[:10]:
        print(f"  dropped {entry['item']}: {entry['tokens']} tokens")
    if dropped > 10:
        print(f"  ... and {dropped - 10} more, all in the manifest")
    if statistics.shortened:
        gone = sum(entry["exchanges_left_out"] for entry in statistics.shortened)
        print(f"{len(statistics.shortened)} conversations lost their oldest exchanges to fit, {gone} in all; "
              "each is in the manifest")
    if statistics.cut_texts:
        print("texts cut to fit, their answers kept: " + ", ".join(
            f"{count} of {statistics.forms[form]} {form}" for form, count in statistics.cut_texts.items()))
    print(f"items are {forms}; tokens per sample: mean {statistics.tokens / statistics.samples:.1f}, longest "
          f"{statistics.longest} of {length}; samples per row: mean {statistics.samples / rows:.2f}, most "
          f"{statistics.fullest}")
    print(f"rows are {statistics.tokens / rows / length:.1%} text, {statistics.supervised / rows:.1f} tokens "
          "per row supervised")


def manifest_of(tool: str, arguments: argparse.Namespace, paths: list[Path],
                manifests: list[DataManifest | None], special: SpecialTokens, statistics: Statistics,
                parts: list[Part]) -> MindRecordManifest:
    """The manifest of the data set.

    Args:
        tool: Name of the command.
        arguments: Its command line.
        paths: The JSON files.
        manifests: Theirs, at the same places.
        special: The special ids of the vocabulary.
        statistics: What happened to the items.
        parts: The files written.
    """
    length = record_length(arguments.seq_length)
    kinds = {manifest.evaluation_kind if manifest else "unknown" for manifest in manifests}
    wordings = {wording for manifest in manifests if manifest for wording in manifest.wordings}
    if statistics.forms[READING]:
        wordings.add(SQUAD_WORDING)
    if statistics.forms.keys() & set(FORMS_OF_TEXT.values()):
        wordings.add(DETECTION_WORDING)
    return MindRecordManifest(
        parts=parts,
        tool=tool,
        inputs={path.name: sha256_of(path) for path in paths},
        tokenizer_sha256=sha256_of(arguments.model_file),
        special_ids=special.manifest_entry(),
        prompt_version=prompt_version(arguments.end_marker),
        wordings=sorted(wordings),
        evaluation_kind=kinds.pop() if len(kinds) == 1 else "mixed",
        seq_length=arguments.seq_length,
        record_length=length,
        packed=arguments.pack,
        counts=Counts(in_=statistics.items, samples=statistics.samples, out=statistics.rows,
                      dropped={"overlong": len(statistics.overlong)}),
        dropped=statistics.overlong,
        forms=dict(statistics.forms),
        train_on=arguments.train_on,
        shortened=statistics.shortened,
        tokens=statistics.tokens_in(length),
        samples_per_row=statistics.samples_per_row(),
        seed=arguments.seed if arguments.pack else None,
        cut_texts=dict(statistics.cut_texts),
        cut=arguments.cut if statistics.cut_texts else None,
    )
