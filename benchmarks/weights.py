"""Measures from-hf and merge beside a plain copy of the same bytes.

    python benchmarks/weights.py --gigabytes 2

Makes a random model of about that size in three shards, then runs `cp`, from-hf and merge on it, each in
a process of its own, and prints wall time, GB/s, peak memory and the ratio to the copy. Both sides end
with the bytes on the disk (fsync). weights.py also hashes all inputs and the output for its manifest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from research_internlm import recipes
from research_internlm.checkpoints import hf_config, weight_names
from research_internlm.checkpoints.dtypes import FLAG_TYPES, Entry
from research_internlm.checkpoints.tensor_files import row_blocks, write_tensors
from research_internlm.model import lora
from research_internlm.shared.errors import run_main

ROOT = Path(__file__).resolve().parent.parent
# Runs a command as its child and prints the child's peak memory, in bytes.
_MEASURE = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)")
_COPY = ("import os, shutil, sys; folder, target = sys.argv[1:]\n"
         "for name in sorted(os.listdir(folder)):\n"
         "    path = os.path.join(target, name); shutil.copyfile(os.path.join(folder, name), path)\n"
         "    with open(path, 'rb') as file: os.fsync(file.fileno())")


def make_model(folder, gigabytes, dtype, shards):
    """A random InternLM of hidden size 2048 as a Hugging Face folder; returns its model_config."""
    config = {"type": "InternLMConfig", "hidden_size": 2048, "num_layers": 1, "num_heads": 16,
              "seq_length": 2048, "vocab_size": 103168, "rms_norm_eps": 1e-6, "theta": 10000.0,
              "has_bias": True,
              "pet_config": {"pet_type": "lora", "lora_rank": 16, "lora_alpha": 32,
                             "target_modules": ".*wq|.*wk|.*wv|.*wo"}}
    itemsize = FLAG_TYPES[dtype].itemsize
    one = lora.count_parameters(config).base
    config["num_layers"] = 2
    layer = lora.count_parameters(config).base - one
    config["num_layers"] = max(1, round((gigabytes * 1e9 / itemsize - one + layer) / layer))
    shapes = {weight_names.to_hf(name): shape
              for name, shape in weight_names.parameter_shapes(config).items()}
    names, weight_map = list(shapes), {}
    (folder / "config.json").write_text(json.dumps(hf_config.from_model_config(config, dtype)))
    cut = [round(len(names) * number / shards) for number in range(shards + 1)]
    for number, (first, last) in enumerate(itertools.pairwise(cut), 1):
        shard = f"model-{number:05}-of-{shards:05}.safetensors"
        layout = {name: Entry(shapes[name], FLAG_TYPES[dtype]) for name in names[first:last]}
        write_tensors(folder / shard, layout, random_blocks(layout), "pt")
        weight_map |= dict.fromkeys(layout, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return config


def random_blocks(layout, scale=0.02):
    """Normal values for write_tensors."""
    random = np.random.default_rng(0)

    def blocks_of(name):
        entry = layout[name]
        for start, stop in row_blocks(entry):
            values = random.standard_normal((stop - start, *entry.shape[1:]), np.float32)
            yield (values * np.float32(scale)).astype(entry.dtype)

    return blocks_of


def make_adapter(run, config):
    """A random adapter in a run's folder."""
    run.mkdir()
    recipes.write_resolved({"model": {"model_config": config}}, run / "resolved_config.yaml")
    layout = {}
    for name, shape in weight_names.parameter_shapes(config).items():
        if name.endswith(("wq.weight", "wk.weight", "wv.weight", "wo.weight")):
            for adapter, size in zip(lora.adapter_names(name), ((16, shape[1]), (shape[0], 16)), strict=True):
                layout[adapter] = Entry(size, FLAG_TYPES["fp32"])
    write_tensors(run / "adapter.ckpt", layout, random_blocks(layout))
    return run / "adapter.ckpt"


def measure(*command):
    """Wall time in s and peak memory in bytes of a command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _MEASURE, *map(str, command)], check=True, text=True,
                          stdout=subprocess.PIPE, cwd=ROOT)
    return time.perf_counter() - started, int(done.stdout)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0,
                        help="size of the model (default: %(default)s)")
    parser.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16",
                        help="type of the model (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the best counts (default: "
                        "%(default)s)")
    parser.add_argument("--folder", help="where to work (default: the system's temporary folder)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        (folder / "hf").mkdir()
        config = make_model(folder / "hf", arguments.gigabytes, arguments.dtype, 3)
        adapter = make_adapter(folder / "run", config)
        report(folder, adapter, arguments)
    return 0


def report(folder, adapter, arguments):
    """Runs everything and prints the table."""
    sizes = [path.stat().st_size for path in (folder / "hf").glob("*.safetensors")]
    weights = ROOT / "research_internlm" / "weights.py"
    other = "fp16" if arguments.dtype == "fp32" else "fp32"
    commands = {
        "copy": ["-c", _COPY, folder / "hf", folder / "copied"],
        "from-hf ckpt": [weights, "from-hf", folder / "hf", folder / "base.ckpt", "--overwrite"],
        "from-hf safetensors": [weights, "from-hf", folder / "hf", folder / "base.safetensors",
                                "--overwrite"],
        f"from-hf --dtype {other}": [weights, "from-hf", folder / "hf", folder / "cast.ckpt", "--dtype",
                                     other, "--overwrite"],
        "merge": [weights, "merge", "--base", folder / "base.ckpt", "--adapter", adapter, "--output",
                  folder / "merged.ckpt", "--overwrite"],
    }
    shutil.copytree(folder / "hf", folder / "copied")
    _, bare = measure(sys.executable, "-c", "import numpy")
    print(f"{sum(sizes) / 1e9:.2f} GB {arguments.dtype} in {len(sizes)} shards, largest "
          f"{max(sizes) / 1e9:.2f} GB; best of {arguments.repeat}; Python with numpy alone: "
          f"{bare / 1e6:.0f} MB")
    base = None
    for name, command in commands.items():
        runs = [measure(sys.executable, *command) for _ in range(arguments.repeat)]
        seconds, peak = min(runs)[0], max(run[1] for run in runs)
        base = base or seconds
        print(f"{name:22s} {seconds:7.2f} s  {sum(sizes) / 1e9 / seconds:5.2f} GB/s  {seconds / base:5.2f} x "
              f"copy  peak {peak / 1e6:6.0f} MB = {peak / max(sizes):.2f} x largest shard", flush=True)


if __name__ == "__main__":
    run_main(main)
