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

from preprocess.mindrecord.items import read_items
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.planning import lengths
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import require_absent, sha256_of, write_json


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
    outputs = [arguments.output, arguments.output.with_suffix(".png")] if arguments.output else []
    for path in outputs:
        require_absent(path, arguments.overwrite, arguments.files)
    processor = load_tokenizer(arguments.model_file)
    items = itertools.chain.from_iterable(map(read_items, arguments.files))
    found = lengths.measure(items, processor, special_tokens(processor), arguments.num_workers)
    if not found:
        raise ToolkitError(f"{', '.join(map(str, arguments.files))} holds no item; give files with items")
    result = lengths.summary(found)
    print("\n".join(lengths.lines(result)))
    if outputs:
        lengths.draw(found, outputs[1])
        write_json(outputs[0], {**result, "inputs": {path.name: sha256_of(path) for path in arguments.files},
                                "tokenizer_sha256": sha256_of(arguments.model_file)})
    return 0


if __name__ == "__main__":
    run_main(main)
