"""Instruction and conversation JSON to MindRecord: encodes every item and writes fixed-length rows.

    python preprocess/alpaca_data_preprocess_v1.py --mindrecord_schema internlm_alpaca \\
        --input_glob train_alpaca_format.json --output_file train.mindrecord \\
        --model_file tokenizer.model --seq_length 1024

Rows are seq_length + 1 tokens, what training wants; validation rows of seq_length tokens are made with
--seq_length one less (1023). With --pack a row holds as many whole samples as fit. The record rule is in
research_internlm/data/rows.py, the choice of samples that share a row in preprocess/mindrecord/packing.py.
Items are alpaca items, also with `system` and `history`, or conversations in the forms of OpenAI
(`messages`), XTuner (`conversation`) and ShareGPT (`conversations`); each item's fields tell its form.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece
from tqdm import tqdm

from preprocess.detection.cutting import cut_long_texts
from preprocess.mindrecord.background import in_background
from preprocess.mindrecord.encoding import Block, encode_blocks
from preprocess.mindrecord.packing import Sample, pack
from preprocess.mindrecord.row_counts import make_rows
from preprocess.mindrecord.statistics import Statistics, manifest_of, report
from preprocess.mindrecord.writer import load_writer, parts_of_older, results_of, write_mindrecord
from research_internlm.data.chat_template import ALL_ANSWERS, TRAIN_ON
from research_internlm.data.detection import CUTS
from research_internlm.data.families import END_MARKERS, UPSTREAM_END
from research_internlm.data.item_files import inputs_of, read_named
from research_internlm.data.items import render_item
from research_internlm.data.manifest import require_own_manifest
from research_internlm.data.rows import fits, record_length
from research_internlm.data.segments import Segment
from research_internlm.data.tokens import (
    SpecialTokens,
    load_tokenizer,
    printed_role,
    special_tokens,
)
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import manifest_path, write_manifest
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.result_set import ResultSet, result_set
from research_internlm.shared.schema import to_json


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
    add("--train_on", choices=TRAIN_ON, default=ALL_ANSWERS, help="which answers of a conversation are "
        "learnt (default: %(default)s)")
    add("--overlong", choices=("drop", "error"), default="drop", help="an item that does not fit its row is "
        "dropped and listed, or an error; a conversation first loses its oldest exchanges, listed too; a "
        "text to be judged is cut in any case, an answer never (default: %(default)s)")
    add("--cut", choices=CUTS, default=CUTS[0], help="what a text to be judged that does not fit its row "
        "loses: its end, or its middle (default: %(default)s)")
    add("--num_workers", type=whole(1), default=2, metavar="N",
        help="threads that encode (default: %(default)s)")
    add("--show", type=whole(0), default=0, metavar="N",
        help="print the first N samples with the supervised part between ⟦ and ⟧ (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an existing data set")
    return parser.parse_args(argv)


def encode_named(paths: Sequence[Path], processor: sentencepiece.SentencePieceProcessor,
                 special: SpecialTokens, arguments: argparse.Namespace
                 ) -> Iterator[tuple[list[str], Counter[str], Block]]:
    """All items of all files as blocks of samples.

    Yields:
        Names of the items, under which they are listed when dropped; how many have which form; their samples.
    """
    for_names, for_encoding = itertools.tee(read_named(paths))  # apart by one block
    room = record_length(arguments.seq_length) if arguments.overlong == "drop" else None
    for block in encode_blocks((item for *_, item in for_encoding), processor, special, arguments.num_workers,
                               arguments.end_marker, arguments.train_on, room):
        named = list(itertools.islice(for_names, len(block.lengths)))
        block = cut_long_texts([item for *_, item in named], block, record_length(arguments.seq_length),
                               arguments.cut, processor, special, arguments.end_marker)
        yield [name for name, *_ in named], Counter(form for _, form, _ in named), block


def keep_fitting(blocks: Iterable[tuple[list[str], Counter[str], Block]], length: int, statistics: Statistics
                 ) -> Iterator[Sample]:
    """Passes on the samples that fit a row and notes the others.

    Args:
        blocks: From `encode_named`.
        length: Row length.
        statistics: Filled while the samples are consumed.

    Yields:
        Samples of at most `length` tokens.
    """
    for names, forms, block in blocks:
        statistics.items += len(names)
        statistics.forms += forms
        statistics.cut_texts += block.cut
        statistics.shortened += [{"item": names[place], "tokens": tokens, "exchanges_left_out": gone}
                                 for place, (tokens, gone) in block.shortened.items()]
        for name, (ids, supervised) in zip(names, block.samples(), strict=True):
            if fits(len(ids), length):
                yield ids, supervised
            else:
                statistics.overlong.append({"item": name, "tokens": len(ids)})


def _marked(segments: list[Segment], processor: sentencepiece.SentencePieceProcessor) -> str:
    """A sample as the model reads it, the supervised part between ⟦ and ⟧."""
    text, inside = "", False
    for segment in segments:
        if segment.supervised != inside:
            text += "⟦" if segment.supervised else "⟧"
            inside = segment.supervised
        text += f"<{printed_role(segment.content)}>" if segment.is_token else processor.decode(
            processor.encode(segment.content))
    return text + ("⟧" if inside else "")


def convert(arguments: argparse.Namespace) -> None:
    """Runs the conversion.

    Raises:
        ToolkitError: Inputs, tokenizer or output do not allow it.
    """
    output = Path(arguments.output_file)
    paths = inputs_of(arguments.input_glob)
    with result_set(output, arguments.overwrite, results_of(output, arguments.file_partition),
                    [*paths, arguments.model_file]) as results:
        statistics = write_rows(arguments, paths, results)
    report(statistics, record_length(arguments.seq_length), output)


def write_rows(arguments: argparse.Namespace, paths: list[Path], results: ResultSet) -> Statistics:
    """Makes the data set and its manifest.

    Raises:
        ToolkitError: Inputs or tokenizer do not allow it.
    """
    output = results.folder / Path(arguments.output_file).name
    made_by = [require_own_manifest(path) for path in paths]
    processor = load_tokenizer(arguments.model_file)
    special = special_tokens(processor)
    for number, (*_, item) in enumerate(itertools.islice(read_named(paths), arguments.show), 1):
        segments = render_item(item, special.family, arguments.end_marker, arguments.train_on)
        print(f"--- sample {number}\n{_marked(segments, processor)}")
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
    facts = manifest_of(Path(__file__).name, arguments, paths, made_by, special, statistics, parts)
    write_manifest(output, **to_json(facts))
    results.publish(*parts_of_older(Path(arguments.output_file)), *(part.file for part in parts),
                    manifest_path(output).name)
    return statistics


def _refuse_overlong(blocks: Iterable[tuple[list[str], Counter[str], Block]], length: int) -> None:
    long = [f"{name} ({count} tokens)" for names, _, block in blocks
            for name, count in zip(names, block.lengths, strict=True) if not fits(count, length)]
    if long:
        raise ToolkitError(f"{len(long)} items are longer than the {length}-token row: "
                           f"{', '.join(long[:10])}{' ...' if len(long) > 10 else ''}; raise --seq_length or "
                           "pass --overlong drop")


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    leave_job_variables_out()
    convert(arguments)
    return 0


if __name__ == "__main__":
    run_main(main)
