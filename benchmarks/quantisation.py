"""Peak memory and time of weights.py quantize at several depths: it must not grow with the number of layers.

    python benchmarks/quantisation.py --model_file tokenizer.model [--hidden 512] [--layers 2 4 8 16]

Random models of one width, AWQ on a text of random words, each in a process of its own. `weights` is what the
layers alone take in float32: memory that grew with them would show it. `predicted` is what `formula` says of
one layer and the activations, beside a process that has imported MindSpore and built nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from research_internlm.checkpoints import weight_names
from research_internlm.checkpoints.dtypes import FLAG_TYPES, Entry
from research_internlm.checkpoints.tensor_files import write_tensors
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
LENGTH, SAMPLES, TOKENS = 256, 8, 2048  # tokens of a sequence, sequences, tokens computed together
RUN = ("import sys; from research_internlm import weights; from research_internlm.shared.peak_memory import "
       "resident_peak; weights.main(sys.argv[1:]); print('peak', resident_peak())")
EMPTY = ("from research_internlm.quantisation import layer_network; from research_internlm.model import "
         "modeling; from research_internlm.shared.peak_memory import resident_peak; "
         "print('peak', resident_peak())")


def formula(hidden: int, width: int, heads: int, length: int = LENGTH) -> int:
    """Bytes of one layer and the activations in float32, without what MindSpore takes by itself.

    The layer in the network and a copy while it is exchanged; its numbers in a byte each; the largest pair of
    weights (w1 and w3) that the search looks at; and of 2,048 tokens what the layer computes and hands over.
    """
    layer = 4 * hidden * hidden + 3 * hidden * width
    activations = TOKENS * (14 * hidden + 4 * width + 2 * heads * length)
    return 4 * (2 * layer + 2 * hidden * width + activations) + layer


def make_model(folder: Path, model_file: str, hidden: int, layers: int) -> dict[str, Any]:
    """Writes model.ckpt, model.yaml and text.txt."""
    config = {"type": "InternLMConfig", "hidden_size": hidden, "num_layers": layers,
              "num_heads": hidden // 64, "intermediate_size": hidden * 11 // 4 // 128 * 128,
              "seq_length": LENGTH, "rms_norm_eps": 1e-6,
              "vocab_size": load_tokenizer(model_file).vocab_size(), "has_bias": True}
    shapes = weight_names.parameter_shapes(config)
    values = np.random.default_rng(0)
    layout = {name: Entry(shape, FLAG_TYPES["fp16"]) for name, shape in shapes.items()}
    write_tensors(folder / "model.ckpt", layout,
                  lambda name: [values.normal(float("norm" in name), 0.02, shapes[name]).astype(np.float16)])
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": {"model_config": config}}))
    words = ["the", "river", "runs", "to", "sea", "old", "stone", "bridge", "of", "a", "town"]
    (folder / "text.txt").write_text(" ".join(random.Random(0).choices(words, k=40 * TOKENS)))
    return config


def peak_of(code: str, *arguments: str) -> int:
    """Bytes, of a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    return int(done.stdout.split("peak ")[-1])


def measure(model_file: str, hidden: int, layers: int) -> dict[str, Any]:
    """One depth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_model(folder, model_file, hidden, layers)
        started = time.time()
        peak = peak_of(RUN, "quantize", "--model", str(folder / "model.ckpt"), "--config",
                       str(folder / "model.yaml"), "--model_file", model_file, "--calibration",
                       str(folder / "text.txt"), "--samples", str(SAMPLES), "--length", str(LENGTH),
                       "--output", str(folder / "w4"))
        width = config["intermediate_size"]
        return {"layers": layers, "hidden": hidden, "width": width, "peak": peak,
                "weights": 4 * layers * (4 * hidden * hidden + 3 * hidden * width),
                "predicted": formula(hidden, width, config["num_heads"]),
                "seconds": round(time.time() - started, 1)}


def main(argv: list[str] | None = None) -> int:
    """Prints a line a depth, and what the formula says of InternLM-7B."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_file", required=True, metavar="F", help="tokenizer.model of a known family")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8, 16])
    arguments = parser.parse_args(argv)
    empty = peak_of(EMPTY)
    print(f"imports alone: {empty / 1e6:,.0f} MB")
    for layers in arguments.layers:
        row = measure(arguments.model_file, arguments.hidden, layers)
        print(json.dumps({**row, "above_imports": row["peak"] - empty}), flush=True)
    print(f"InternLM-7B by the formula: {formula(4096, 11008, 32, 512) / 1e9:.1f} GB above the imports")
    return 0


if __name__ == "__main__":
    run_main(main)
