"""What the detection demo's base model learns before LoRA: to continue texts, and to say a word it is told.

    python scripts/demo/detection_base.py --texts train_detection.json --output base_corpus.json

A released InternLM has read texts of every kind and can answer with a given word; it was not taught who wrote
what. So the corpus holds the training texts without their labels, and each verdict as a word to repeat.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from research_internlm.data.detection import read_items
from research_internlm.data.item_files import write_items
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import read_json
from research_internlm.shared.result_set import result_set


def corpus(items: list[dict], seed: int = 42) -> list[dict[str, str]]:
    """Alpaca items: half of the texts to be continued from a random word on; half before a word to repeat."""
    draw = random.Random(seed)
    verdicts = {item["language"]: sorted({other["output"] for other in items
                                          if other["language"] == item["language"]}) for item in items}
    made = []
    for place, item in enumerate(items):
        text = item["text"]
        if place % 2:
            cut = draw.randrange(len(text) // 4, len(text) // 2)
            made.append({"instruction": "Continue: ", "input": text[:cut], "output": text[cut:]})
        else:
            word = draw.choice(verdicts[item["language"]])
            made.append({"instruction": f"{text}\nSay: ", "input": word, "output": word})
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--texts", type=Path, required=True, metavar="F.json", help="train_detection.json")
    parser.add_argument("--output", type=Path, required=True, metavar="F.json", help="the corpus")
    arguments = parser.parse_args(argv)
    items = read_items(read_json(arguments.texts, "--texts"), str(arguments.texts))
    with result_set(arguments.output, False, {arguments.output: None}, [arguments.texts]) as results:
        write_items(results.folder / arguments.output.name, corpus(items))
        results.publish(arguments.output.name)
    return 0


if __name__ == "__main__":
    run_main(main)
