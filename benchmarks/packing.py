"""Packed against padded rows: useful tokens per second of the tiny model with LoRA, through the Trainer.

    python benchmarks/packing.py [--seq_length 1024] [--batch 1] [--steps 20] [--rounds 2]

Both sides are run_internlm.py with yaml/lora_finetune.yaml on the CPU, rows of synthetic samples with the
lengths of real questions, the same number of rows a step. They take turns, because other load on the machine
moves every number; the best turn of each side counts. The limit is one over the padded rows' share of text.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from trainer_runs import Run, run

from preprocess.mindrecord.synthetic import MEAN_TOKENS, samples, write_rows
from research_internlm.shared.errors import run_main

VOCAB = 1200


def measure(folder: Path, layout: str, arguments: argparse.Namespace, turn: int) -> Run:
    """One run of one layout."""
    rows, length = arguments.steps * arguments.batch, arguments.seq_length
    packed = layout == "packed"
    data = folder / f"{layout}.mindrecord"
    if not data.exists():
        count = round(rows * (length + 1) / MEAN_TOKENS) if packed else rows
        write_rows(data, samples(count, VOCAB, length + 1), length, VOCAB, packed)
    return run(data, folder / f"{layout}{turn}", f"model.model_config.seq_length={length}",
               f"model.model_config.vocab_size={VOCAB}", f"runner_config.batch_size={arguments.batch}",
               *(["model.model_config.packed=True"] if packed else []))


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seq_length", type=int, default=1024, help="(default: %(default)s)")
    add("--batch", type=int, default=1, help="rows a step (default: %(default)s)")
    add("--steps", type=int, default=20, help="of one turn (default: %(default)s)")
    add("--rounds", type=int, default=2, help="turns of each side (default: %(default)s)")
    arguments = parser.parse_args(argv)
    best: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.rounds):
            for layout in ("padded", "packed"):
                found = measure(Path(folder), layout, arguments, turn)
                best[layout] = max(found, best.get(layout, found), key=lambda one: one.useful_per_second)
    print("| rows | step, ms | useful tokens/s |\n|---|---|---|")
    for layout, found in best.items():
        print(f"| {layout} | {found.step_ms:.0f} | {found.useful_per_second:,.0f} |")
    ratio = best["packed"].useful_per_second / best["padded"].useful_per_second
    print(f"\npacked / padded: {ratio:.2f} (limit {(arguments.seq_length + 1) / MEAN_TOKENS:.2f})")
    return 0


if __name__ == "__main__":
    run_main(main)
