"""Lengths of samples in tokens by class and field, and what each seq_length would cut, pad and pack.

    python research_internlm/lengths.py data/train_detection.json --model_file tokenizer.model \\
        --output lengths.json

Reads every form of item that preprocess/alpaca_data_preprocess_v1.py reads, encodes it the same way and says
which seq_length to take. A histogram goes beside the output (lengths.png).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from research_internlm.data.item_files import read_items
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.planning import sample_lengths
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import require_file, sha256_of, write_json
from research_internlm.shared.result_set import result_set


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="F", help="json or JSON Lines of items")
    parser.add_argument("--model_file", required=True, metavar="F.model", help="tokenizer.model")
    parser.add_argument("--output", type=Path, metavar="F.json", help="the numbers; F.png is the histogram")
    parser.add_argument("--num_workers", type=whole(1), default=2, metavar="N",
                        help="threads that encode (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    if not arguments.output:
        measure(arguments)
        return 0
    inputs = [require_file(path, "the input") for path in (*arguments.files, arguments.model_file)]
    with result_set(arguments.output, arguments.overwrite, {arguments.output: None}, inputs) as results:
        staged = results.folder / arguments.output.name
        result, found = measure(arguments)
        sample_lengths.draw(found, staged.with_suffix(".png"))
        write_json(staged, {**result, "inputs": {path.name: sha256_of(path) for path in arguments.files},
                            "tokenizer_sha256": sha256_of(arguments.model_file)})
        results.publish(staged.with_suffix(".png").name, staged.name)
    return 0


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, sample_lengths.Lengths]]:
    """Measures the files and prints the tables; the summary, and the lengths by class and field."""
    processor = load_tokenizer(arguments.model_file)
    items = itertools.chain.from_iterable(map(read_items, arguments.files))
    found = sample_lengths.measure(items, processor, special_tokens(processor), arguments.num_workers)
    if not found:
        raise ToolkitError(f"{', '.join(map(str, arguments.files))} holds no item; give files with items")
    result = sample_lengths.summary(found)
    print("\n".join(sample_lengths.lines(result)))
    return result, found


if __name__ == "__main__":
    run_main(main)
