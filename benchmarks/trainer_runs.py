"""Training runs for benchmarks: synthetic samples, and run_internlm.py measured from outside.

The lengths are those of real questions, so padding and fill are too; the ids mean nothing, which costs the
same and lets the vocabulary have any size.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.mindrecord.packing import Sample
from preprocess.mindrecord.synthetic import BOS, EOS, FIRST_FREE

ROOT = Path(__file__).resolve().parent.parent
# Share of the samples -> tokens: 58,446 samples of real MMLU and CMMLU questions with InternLM's tokenizer,
# mean 138. Scaled to the mean of 26,244 questions.
SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1)
TOKENS = (83, 92, 104, 121, 153, 195, 236, 334, 390, 528, 1071)
MEAN, ANSWER = 146, 16
_WARM_UP = 3  # the first step compiles
_STEP = re.compile(r"per_step_time: (\d+)ms")
_USEFUL = re.compile(r"useful_tokens_per_second: ([\d.]+)")
_LOSS = re.compile(r"loss:\[([\d.]+)/")


@dataclass(frozen=True)
class Run:
    """What one training run took.

    Attributes:
        step_ms: Median step after the warm-up, milliseconds.
        useful_per_second: Median unpadded tokens per second.
        peak_mib: Largest resident memory of the process.
        losses: Of all its steps.
    """

    step_ms: float
    useful_per_second: float
    peak_mib: float
    losses: list[float]


def samples(count: int, vocab_size: int, longest: int) -> list[Sample]:
    """Samples of real lengths, up to `longest` tokens, with labels on the last 16."""
    random = np.random.default_rng(0)
    lengths = np.interp((np.arange(count) + 0.5) / count, SHARES, TOKENS)
    found = []
    for length in np.minimum(lengths * MEAN / lengths.mean(), longest).astype(int):
        ids = random.integers(FIRST_FREE, vocab_size, length).astype(np.int32)
        ids[0], ids[-1] = BOS, EOS
        found.append((ids, np.arange(length) >= length - ANSWER))
    return found


def run(data: Path, output: Path, *overrides: str) -> Run:
    """Fine-tunes the tiny model on all rows once with run_internlm.py, on the CPU.

    Raises:
        SystemExit: The run failed; its last lines are shown.
    """
    log = output.with_suffix(".log")
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "research_internlm/run_internlm.py", "--config", "yaml/lora_finetune.yaml",
             "--overlay", "yaml/overlays/cpu_tiny.yaml", "--train_dataset", str(data), "--output_dir",
             str(output), "--use_parallel", "False", "do_eval=False", "runner_config.epochs=1",
             "callbacks.CheckpointMonitor.save_checkpoint_steps=100000", *overrides],
            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    text = log.read_text(encoding="utf-8", errors="replace")
    if status:
        raise SystemExit(f"{' '.join(process.args)} failed:\n{text[-3000:]}")
    return Run(_median(_STEP, text), _median(_USEFUL, text), usage.ru_maxrss / 1024,
               [float(value) for value in _LOSS.findall(text)])


def _median(pattern: re.Pattern, text: str) -> float:
    return float(np.median([float(value) for value in pattern.findall(text)[_WARM_UP:]]))
