"""Trains the assistant demo's SentencePiece model: InternLM2's layout with a small vocabulary.

    python scripts/demo/chat_tokenizer.py --corpus base.json --corpus assistant.json \\
        --name 小宝 --name Bao --output tokenizer.model

Ids are where InternLM2 has them, so the toolkit treats the file like the real tokenizer.model. A model of a
million parameters has no capacity to spell: Latin words and the names are pieces of their own.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import vocabulary

from research_internlm.data.conversations import MESSAGES
from research_internlm.data.families import INTERNLM2
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import publish, read_json, require_absent
from research_internlm.shared.staging import staging

TRAINED_PIECES = 1800


def train(texts: list[str], names: list[str]) -> bytes:
    """The vocabulary of these texts, serialised, in which Latin words and names are pieces of their own."""
    lines = [line for text in texts for line in text.splitlines()]
    words = {word for line in lines for word in re.findall(r"[A-Za-z]{3,}", line)}
    alone = sorted({*names, *words, *(f"\u2581{word}" for word in words)})
    return vocabulary.train(lines, alone, INTERNLM2, TRAINED_PIECES)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", action="append", required=True, metavar="F.json",
                        help="conversations to train on (repeatable)")
    parser.add_argument("--name", action="append", default=[],
                        help="a name that becomes one piece (repeatable)")
    parser.add_argument("--output", required=True, metavar="F.model", help="the tokenizer")
    arguments = parser.parse_args(argv)
    output = require_absent(arguments.output, False)
    texts = {message["content"] for path in arguments.corpus for item in read_json(path, "the corpus")
             for message in item[MESSAGES]}
    with staging(output) as folder:
        staged = Path(folder) / output.name
        staged.write_bytes(train(sorted(texts), arguments.name))
        processor = load_tokenizer(staged)
        publish(staged, output)
    print(f"{processor.vocab_size()} pieces -> {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
