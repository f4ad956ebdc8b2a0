"""Instruction JSON to MindRecord: encodes every item and writes fixed-length rows.

    python preprocess/alpaca_data_preprocess_v1.py --mindrecord_schema internlm_alpaca \\
        --input_glob train_alpaca_format.json --output_file train.mindrecord \\
        --model_file tokenizer.model --seq_length 1024

Rows are seq_length + 1 tokens, what training wants; validation rows of seq_length tokens are made with
--seq_length one less (1023). With --pack a row holds as many whole samples as fit. The record rule is in
research_internlm/data/rows.py, the choice of samples that share a row in preprocess/mindrecord/packing.py.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tqdm import tqdm

from preprocess.mindrecord.background import in_background
from preprocess.mindrecord.encoding import Block, encode_blocks
from preprocess.mindrecord.packing import Sample, pack
from preprocess.mindrecord.writer import existing_parts, load_writer, write_mindrecord
from research_internlm.data.chat_template import prompt_version
from research_internlm.data.families import END_MARKERS, UPSTREAM_END
from research_internlm.data.item_files import inputs_of, read_named
from research_internlm.data.items import SQUAD_WORDING, is_reading, render_item
from research_internlm.data.manifest import (
    Counts,
    MindRecordManifest,
    Part,
    SamplesPerRow,
    Tokens,
    read_data_manifest,
)
from research_internlm.data.rows import fits, make_records, record_length
from research_internlm.data.segments import Segment
from research_internlm.data.tokens import (
    IGNORE_ID,
    SpecialTokens,
    load_tokenizer,
    printed_role,
    special_tokens,
)
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import sha256_of, write_manifest
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.schema import to_json

_ROWS_AT_ONCE = 512


@dataclass
class Statistics:
    """What happened to the items.

    Attributes:
        items: Items read.
        rows: Rows written.
        samples: Samples in them.
        reading: Items read that are questions on a passage.
        tokens: Tokens of all samples, and `supervised` those with a label.
        longest: Tokens of the longest sample.
        longest_answer: Most supervised tokens in one row.
        fullest: Most samples in one row.
        overlong: Every dropped item with its length.
    """

    items: int = 0
    rows: int = 0
    samples: int = 0
    reading: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    longest_answer: int = 0
    fullest: int = 0
    overlong: list[dict[str, Any]] = field(default_factory=list)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--mindrecord_schema", default="internlm_alpaca",
        help="name of the schema inside the file (default: %(default)s)")
    add("--input_glob", required=True, metavar="F.json", help="alpaca json or JSON Lines, or a "
        "glob that matches several")
    add("--output_file", required=True, metavar="F.mindrecord", help="the data set")
    add("--model_file", required=True, metavar="F.model", help="InternLM's tokenizer.model")
    add("--file_partition", type=whole(1), default=1, metavar="N",
        help="number of files to spread the rows over (default: %(default)s)")
    add("--seq_length", type=whole(1), default=1024, metavar="N",
        help="rows are one token longer; validation rows take one less (default: %(default)s)")
    add("--pack", action="store_true", help="put several whole samples into a row instead of padding it; the "
        "model must be told (recipe), and validation rows may be packed or not")
    add("--seed", type=whole(0), default=42, help="of the shuffle before packing (default: %(default)s)")
    add("--end_marker", choices=END_MARKERS, default=UPSTREAM_END, help="how chat answers "
        "end: eoa as upstream (<eoa>, newline, </s>), eos with </s> alone, for a base that does not learn "
        "<eoa> (research_internlm/audit.py tells; default: %(default)s)")
    add("--overlong", choices=("drop", "error"), default="drop", help="an item that does not fit its row is "
        "dropped and listed, or an error; it is never cut (default: %(default)s)")
    add("--num_workers", type=whole(1), default=2, metavar="N",
        help="threads that encode (default: %(default)s)")
    add("--show", type=whole(0), default=0, metavar="N",
        help="print the first N samples with the supervised part between ⟦ and ⟧ (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an existing data set")
    return parser.parse_args(argv)


def encode_named(paths: Sequence[Path], processor: sentencepiece.SentencePieceProcessor,
                 special: SpecialTokens, arguments: argparse.Namespace
                 ) -> Iterator[tuple[list[str], int, Block]]:
    """All items of all files as blocks of samples.

    Yields:
        Names of the items, under which they are listed when dropped; how many are questions on a passage;
        their samples.
    """
    for_names, for_encoding = itertools.tee(read_named(paths))  # apart by one block
    for block in encode_blocks((item for _, item in for_encoding), processor, special, arguments.num_workers,
                               arguments.end_marker):
        named = list(itertools.islice(for_names, len(block.lengths)))
        yield [name for name, _ in named], sum(is_reading(item) for _, item in named), block


def keep_fitting(blocks: Iterable[tuple[list[str], int, Block]], length: int, statistics: Statistics
                 ) -> Iterator[Sample]:
    """Passes on the samples that fit a row and notes the others.

    Args:
        blocks: From `encode_named`.
        length: Row length.
        statistics: Filled while the samples are consumed.

    Yields:
        Samples of at most `length` tokens.
    """
    for names, reading, block in blocks:
        statistics.items += len(names)
        statistics.reading += reading
        for name, (ids, supervised) in zip(names, block.samples(), strict=True):
            if fits(len(ids), length):
                yield ids, supervised
            else:
                statistics.overlong.append({"item": name, "tokens": len(ids)})


def make_rows(groups: Iterable[Sequence[Sample]], length: int, statistics: Statistics
              ) -> Iterator[dict[str, np.ndarray]]:
    """Joins the samples of a row and pads its end.

    Args:
        groups: The samples of each row, one or more, together at most `length` tokens.
        length: Row length.
        statistics: Filled while the rows are consumed.

    Yields:
        Rows of `length` tokens.
    """
    groups = iter(groups)
    while batch := list(itertools.islice(groups, _ROWS_AT_ONCE)):
        joined = [group[0] if len(group) == 1 else tuple(map(np.concatenate, zip(*group, strict=True)))
                  for group in batch]
        records = make_records(joined, length)
        answers = (records["labels"] != IGNORE_ID).sum(axis=1)
        statistics.rows += len(batch)
        statistics.samples += sum(map(len, batch))
        statistics.tokens += sum(len(ids) for ids, _ in joined)
        statistics.supervised += int(answers.sum())
        statistics.longest = max(statistics.longest, *(len(ids) for group in batch for ids, _ in group))
        statistics.longest_answer = max(statistics.longest_answer, int(answers.max()))
        statistics.fullest = max(statistics.fullest, *map(len, batch))
        for row in zip(*records.values(), strict=True):
            yield dict(zip(records, row, strict=True))


def show(number: int, item: dict[str, str], processor: sentencepiece.SentencePieceProcessor, family: str,
         end: str) -> None:
    """Prints a sample as the model reads it, the supervised part between ⟦ and ⟧."""
    print(f"--- sample {number}\n{_marked(render_item(item, family, end), processor)}")


def _marked(segments: list[Segment], processor: sentencepiece.SentencePieceProcessor) -> str:
    text, inside = "", False
    for segment in segments:
        if segment.supervised != inside:
            text += "⟦" if segment.supervised else "⟧"
            inside = segment.supervised
        text += f"<{printed_role(segment.content)}>" if segment.is_token else processor.decode(
            processor.encode(segment.content))
    return text + ("⟧" if inside else "")


def report(statistics: Statistics, length: int, output: Path) -> None:
    """Prints the counts and how full the rows are."""
    dropped, rows = len(statistics.overlong), statistics.rows
    print(f"{statistics.samples + dropped} items in = {statistics.samples} samples in {rows} rows + "
          f"{dropped} dropped (longer than {length} tokens) -> {output}")
    for entry in statistics.overlong[:10]:
        print(f"  dropped {entry['item']}: {entry['tokens']} tokens")
    if dropped > 10:
        print(f"  ... and {dropped - 10} more, all in the manifest")
    print(f"tokens per sample: mean {statistics.tokens / statistics.samples:.1f}, longest "
          f"{statistics.longest} of {length}; samples per row: mean {statistics.samples / rows:.2f}, most "
          f"{statistics.fullest}")
    print(f"rows are {statistics.tokens / rows / length:.1%} text, {statistics.supervised / rows:.1f} tokens "
          "per row supervised")


def convert(arguments: argparse.Namespace) -> None:
    """Runs the conversion.

    Raises:
        ToolkitError: Inputs, tokenizer or output do not allow it.
    """
    output = Path(arguments.output_file)
    old = existing_parts(output, arguments.file_partition)
    if old and not arguments.overwrite:
        raise ToolkitError(f"{old[0]} exists already; pass --overwrite to replace it, or name another output")
    processor = load_tokenizer(arguments.model_file)
    special = special_tokens(processor)
    paths = inputs_of(arguments.input_glob)
    for number, (_, item) in enumerate(itertools.islice(read_named(paths), arguments.show), 1):
        show(number, item, processor, special.family, arguments.end_marker)
    length = record_length(arguments.seq_length)
    statistics = Statistics()

    encode = functools.partial(encode_named, paths, processor, special, arguments)
    if arguments.overlong == "error":
        _refuse_overlong(encode(), length)
    kept = keep_fitting(in_background(encode, "encoding"), length, statistics)
    load_writer()
    groups = pack(list(kept), length, arguments.seed) if arguments.pack else ([sample] for sample in kept)
    rows = make_rows(groups, length, statistics)
    first = next(rows, None)
    if first is None:
        raise ToolkitError(f"every one of the {statistics.items} items is longer than {length} tokens; raise "
                           f"--seq_length (now {arguments.seq_length})")
    rows = tqdm(itertools.chain([first], rows), desc="rows", delay=2, unit="row")
    parts = write_mindrecord(output, rows, arguments.file_partition, arguments.mindrecord_schema)
    write_manifest(output, **to_json(_manifest(arguments, paths, special, statistics, parts)))
    report(statistics, length, output)


def _refuse_overlong(blocks: Iterable[tuple[list[str], int, Block]], length: int) -> None:
    long = [f"{name} ({count} tokens)" for names, _, block in blocks
            for name, count in zip(names, block.lengths, strict=True) if not fits(count, length)]
    if long:
        raise ToolkitError(f"{len(long)} items are longer than the {length}-token row: "
                           f"{', '.join(long[:10])}{' ...' if len(long) > 10 else ''}; raise --seq_length or "
                           "pass --overlong drop")


def _manifest(arguments: argparse.Namespace, paths: list[Path], special: SpecialTokens,
              statistics: Statistics, parts: list[Part]) -> MindRecordManifest:
    """The manifest of the data set."""
    length = record_length(arguments.seq_length)
    manifests = [read_data_manifest(path) for path in paths]
    kinds = {manifest.evaluation_kind if manifest else "unknown" for manifest in manifests}
    wordings = {wording for manifest in manifests if manifest for wording in manifest.wordings}
    if statistics.reading:
        wordings.add(SQUAD_WORDING)
    return MindRecordManifest(
        parts=parts,
        tool=Path(__file__).name,
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
        tokens=Tokens(total=statistics.tokens, supervised=statistics.supervised,
                      padding=statistics.rows * length - statistics.tokens,
                      longest=statistics.longest, longest_answer=statistics.longest_answer,
                      fill=round(statistics.tokens / (statistics.rows * length), 6)),
        samples_per_row=SamplesPerRow(mean=round(statistics.samples / statistics.rows, 4),
                                      max=statistics.fullest),
        seed=arguments.seed if arguments.pack else None,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    leave_job_variables_out()
    convert(arguments)
    return 0


if __name__ == "__main__":
    run_main(main)
