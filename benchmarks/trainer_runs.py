"""Training runs for benchmarks: run_internlm.py measured from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
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
