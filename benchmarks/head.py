"""Head and loss at the labels only, against everywhere: step time and peak memory with the full vocabulary.

    python benchmarks/head.py [--batch 1 2] [--layouts padded packed] [--hidden 128] [--layers 2] [--steps 8]

Both sides are run_internlm.py with yaml/lora_finetune.yaml on the CPU, InternLM's 103,168 logits, seq_length
1024. Each run is a process of its own, so its peak memory is its own; MindSpore itself takes some of it. The
losses of both must agree: it is the same training.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from trainer_runs import Run, run

from preprocess.mindrecord.synthetic import MEAN_TOKENS, samples, write_rows
from research_internlm.data.families import FAMILIES, INTERNLM
from research_internlm.shared.errors import run_main

LENGTH, VOCAB_SIZE = 1024, FAMILIES[INTERNLM].vocab_size


def measure(folder: Path, layout: str, batch: int, head: str, arguments: argparse.Namespace) -> Run:
    """One run with one of the heads."""
    rows, packed = arguments.steps * batch, layout == "packed"
    data = folder / f"{layout}{batch}.mindrecord"
    if not data.exists():
        count = round(rows * (LENGTH + 1) / MEAN_TOKENS) if packed else rows
        write_rows(data, samples(count, VOCAB_SIZE, LENGTH + 1), LENGTH, VOCAB_SIZE, packed)
    return run(data, folder / f"{layout}{batch}{head}", f"model.model_config.seq_length={LENGTH}",
               f"model.model_config.vocab_size={VOCAB_SIZE}", f"runner_config.batch_size={batch}",
               f"model.model_config.hidden_size={arguments.hidden}", f"model.model_config.packed={packed}",
               f"model.model_config.num_layers={arguments.layers}", "train_dataset.data_loader.shuffle=False",
               "model.model_config.pet_config.lora_dropout=0.0",
               *(["model.model_config.labels_per_row=0"] if head == "everywhere" else []))


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[1, 2], help="rows a step (default: %(default)s)")
    add("--layouts", nargs="+", choices=("padded", "packed"), default=["padded", "packed"])
    add("--hidden", type=int, default=128, help="hidden size (default: %(default)s)")
    add("--layers", type=int, default=2, help="(default: %(default)s)")
    add("--steps", type=int, default=8, help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    print("| rows | batch | head | step, ms | peak, MiB | loss of the last step |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for layout in arguments.layouts:
            for batch in arguments.batch:
                found = {head: measure(Path(folder), layout, batch, head, arguments)
                         for head in ("everywhere", "at labels")}
                for head, one in found.items():
                    print(f"| {layout} | {batch} | {head} | {one.step_ms:.0f} | {one.peak_mib:,.0f} | "
                          f"{one.losses[-1]} |", flush=True)
                full, few = found.values()
                print(f"| | | at labels / everywhere | {few.step_ms / full.step_ms:.2f} | "
                      f"{few.peak_mib / full.peak_mib:.2f} | |", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
