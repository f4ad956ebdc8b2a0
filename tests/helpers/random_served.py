"""A tiny random model for evaluate.py and serve.py alike, and the server as a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from research_internlm import recipes
from research_internlm.checkpoints import weight_names
from research_internlm.data.tokens import load_tokenizer
from tests.helpers.commands import ROOT
from tests.helpers.weight_files import write

CONFIG, OVERLAY = "yaml/predict_mmlu.yaml", "yaml/overlays/cpu_tiny.yaml"


def random_model(folder: Path, tokenizer: Path) -> list[Any]:
    """The options that name such a model."""
    overrides = [f"model.model_config.{key}={value}" for key, value in (
        ("vocab_size", load_tokenizer(tokenizer).vocab_size()), ("hidden_size", 32), ("num_layers", 1),
        ("multiple_of", 16))]
    overrides += [f"output_dir={folder}", "runner_config.batch_size=8"]
    recipe, random = recipes.resolve(ROOT / CONFIG, [ROOT / OVERLAY], overrides), np.random.default_rng(4)
    write(folder / "random.ckpt", {
        name: random.normal(1.0 if "norm" in name else 0.0, 0.25, shape).astype(np.float32)
        for name, shape in weight_names.parameter_shapes(recipes.model_config(recipe)).items()})
    return ["--config", CONFIG, "--overlay", OVERLAY, "--load_checkpoint", folder / "random.ckpt",
            "--model_file", tokenizer, *overrides]


@contextlib.contextmanager
def serve(options: Sequence[Any]) -> Iterator[str]:
    """Runs serve.py with these options; gives its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "research_internlm/serve.py", *map(str, options), "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < end
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(60)
