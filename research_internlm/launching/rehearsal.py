"""A run rehearsed on the device itself: the recipe's own kernels with a tiny random model.

The rehearsal starts the launcher as a user does, ends a worker with kill -9 after the first save, and gives
the same command again. What it then reads is what every run leaves: logs and checkpoints.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.mindrecord import synthetic
from research_internlm import recipes
from research_internlm.checkpoints import weight_names
from research_internlm.checkpoints.dtypes import FLAG_TYPES, Entry, cast
from research_internlm.checkpoints.tensor_files import write_tensors
from research_internlm.data.rows import record_length
from research_internlm.machine import npus
from research_internlm.recipes.schedule import steps_from_recipe, whole_number
from research_internlm.runs import saved_steps, trained_state
from research_internlm.runs.train_log_file import read_training
from research_internlm.runs.worker_logs import RankLog, evaluations
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import end_processes, workers_of
from research_internlm.training import command

ROOT = Path(__file__).resolve().parents[2]
# The kill comes after the first, which holds adapter and optimizer state only, as every second does; on a
# fast device the others leave it time to strike.
_SAVES = 10
_LEAST_STEPS_A_SAVE = 4
# The recipe's rate is for thousands of steps; this one shows within 40 that gradients arrive.
_LEARNING_RATE = 1.0e-2
_WEIGHT_DEVIATION = 0.02  # MindFormers' initializer_range
_TYPES = {"float32": FLAG_TYPES["fp32"], "float16": FLAG_TYPES["fp16"], "bfloat16": FLAG_TYPES["bf16"]}
_LOOK_SECONDS = 0.02
_LONGEST_MINUTES = 30  # of one start; compiling a tiny model takes a minute or two


@dataclass(frozen=True)
class Check:
    """One line of the page: what was checked, whether it passed, and what was seen."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that is ready to run.

    Attributes:
        device: `Ascend` or `CPU`.
        recipe: The resolved recipe, tiny.
        words: The launcher's command line.
        folder: Holds the data, the run and the two logs.
        total: Optimizer steps of the run.
        workers: Workers of this machine.
    """

    device: str
    recipe: recipes.Recipe
    words: list[str]
    folder: Path
    total: int
    workers: int

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "run"

    @property
    def save_steps(self) -> int:
        """Steps between two saves."""
        return recipes.callback(self.recipe, "CheckpointMonitor")["save_checkpoint_steps"]


def prepare(config: str, workers: int, options: Sequence[str], folder: Path) -> Rehearsal:
    """Resolves the recipe with a tiny model and writes data for it.

    Args:
        config: The recipe.
        workers: Workers of this machine.
        options: Those of run_internlm.py: overlays and `key.path=value`.
        folder: A new folder.

    Raises:
        ToolkitError: The recipe is not valid.
    """
    device = "Ascend" if npus.find_devices() else "CPU"
    given = ["--config", config, *options]
    asked = command.resolve(command.parse_arguments(given))
    shape = recipes.model_config(asked)
    grouped = (shape.get("n_kv_heads") or shape["num_heads"]) != shape["num_heads"]
    overlays = [f"tiny{'_internlm2' if grouped else ''}.yaml", *(["cpu.yaml"] if device == "CPU" else [])]
    sink = whole_number(asked, "runner_config.sink_size", also=-1, default=1) if device == "Ascend" else 1
    every = -(-_LEAST_STEPS_A_SAVE // sink) * sink if sink > 0 else _LEAST_STEPS_A_SAVE
    above = [word for name in overlays for word in ("--overlay", str(ROOT / "yaml/overlays" / name))]
    words = [*options, *above,
             "--output_dir", str(folder / "run"), "--load_checkpoint", str(folder / "base.ckpt"),
             "runner_config.epochs=1",
             f"lr_schedule.learning_rate={_LEARNING_RATE}", f"eval_step_interval={every}",
             f"callbacks.CheckpointMonitor.save_checkpoint_steps={every}",
             *(["runner_config.sink_size=1"] if sink == -1 else []),
             # Its prompts need the tokenizer of real weights.
             *(["callbacks.AnswerMonitor=null"] if recipes.callback(asked, "AnswerMonitor") else []),
             "--train_dataset", str(folder / "train.mindrecord")]
    if asked.get("eval_dataset"):
        words += ["--eval_dataset", str(folder / "valid.mindrecord")]
    folder.mkdir(parents=True)
    recipe = command.resolve(command.parse_arguments(["--config", config, *words]))
    rows = _write_data(recipe, folder, _SAVES * every, workers)
    _write_base(recipe, folder / "base.ckpt")
    total = steps_from_recipe(recipe, rows, workers).total
    return Rehearsal(device, recipe, [config, str(workers), "--", *words], folder, total, workers)


def _write_data(recipe: recipes.Recipe, folder: Path, steps: int, workers: int) -> int:
    """Writes training and validation rows of the recipe's kind; returns the number of training rows."""
    shape = recipes.model_config(recipe)
    length, vocab_size, packed = shape["seq_length"], shape["vocab_size"], bool(shape.get("packed"))
    per_step = whole_number(recipe, "runner_config.batch_size") * workers
    rows = 0
    for name, wanted, seq_length in (("train", steps * per_step, length), ("valid", per_step, length - 1)):
        row = record_length(seq_length)
        # Packed rows are not quite full, and the shortest samples may all be in them.
        count = math.ceil(wanted * row / synthetic.MEAN_TOKENS * 1.3) + wanted if packed else wanted
        made = synthetic.samples(count, vocab_size, row)
        written = synthetic.write_rows(folder / f"{name}.mindrecord", made, seq_length, vocab_size, packed)
        rows = rows or written
    return rows


def _write_base(recipe: recipes.Recipe, path: Path) -> None:
    """Writes random base weights, 1 for norms, in the recipe's own type."""
    shape = recipes.model_config(recipe)
    kind = _TYPES[shape.get("param_init_type", "float16")]
    random = np.random.default_rng(0)
    layout = {name: Entry(size, kind) for name, size in weight_names.parameter_shapes(shape).items()}

    def values(name: str) -> np.ndarray:
        size = layout[name].shape
        found = np.ones(size) if "norm" in name else random.normal(0, _WEIGHT_DEVIATION, size)
        return cast(found.astype(np.float32), kind)

    write_tensors(path, layout, lambda name: [values(name)])


def rehearse(rehearsal: Rehearsal) -> Iterator[Check]:
    """Trains, kills, continues and looks at what is there; a check that fails ends the rehearsal."""
    started = time.monotonic()
    killed_at, code = _start_and_kill(rehearsal)
    if killed_at is None:
        yield Check("training starts", False, f"the launcher ended with exit code {code} before it was "
                    f"killed; {_last_error(rehearsal.folder / 'first.log')}")
        return
    yield Check("training starts", True, f"first save, step {killed_at}, {time.monotonic() - started:.0f} s "
                "after the start (most of it is compiling)")
    yield Check("a killed worker ends the launch", code != 0, f"exit code {code}")
    continued = saved_steps.find_saves(rehearsal.run).last
    code = _launch(rehearsal, "second.log").wait(_LONGEST_MINUTES * 60)
    resumed = f"continuing {rehearsal.run.resolve()} from step" in _text(rehearsal.folder / "second.log")
    yield Check("the same command continues", code == 0 and resumed,
                f"from its last save to step {rehearsal.total}" if code == 0 and resumed else
                f"exit code {code}; {_last_error(rehearsal.folder / 'second.log')}")
    if code == 0:
        yield from _results(rehearsal, continued)


def _launch(rehearsal: Rehearsal, log: str) -> subprocess.Popen:
    with open(rehearsal.folder / log, "wb") as file:
        return subprocess.Popen([sys.executable, str(ROOT / "research_internlm/launch.py"), *rehearsal.words],
                                stdout=file, stderr=subprocess.STDOUT)


def _start_and_kill(rehearsal: Rehearsal) -> tuple[int | None, int]:
    """Starts the run and kills a worker after the first save.

    Returns:
        The step of that save, or None where it never came; the launcher's exit code.
    """
    process = _launch(rehearsal, "first.log")
    deadline = time.monotonic() + _LONGEST_MINUTES * 60
    try:
        while process.poll() is None and time.monotonic() < deadline:
            step = saved_steps.find_saves(rehearsal.run).last
            if step and (workers := workers_of(rehearsal.run)):
                os.kill(workers[max(workers)], signal.SIGKILL)
                return step, process.wait(_LONGEST_MINUTES * 60)
            time.sleep(_LOOK_SECONDS)
        return None, process.poll() or 1
    finally:
        process.kill()
        end_processes(rehearsal.run)
        process.wait()


def _results(rehearsal: Rehearsal, continued: int) -> Iterator[Check]:
    logs = {rank: log for rank, log in read_training(rehearsal.run).items() if log.has_loss is not False}
    yield from _losses(logs, rehearsal.total)
    if rehearsal.recipe.get("do_eval"):
        losses = evaluations(logs)
        yield Check("evaluation in training", bool(losses) and all(map(math.isfinite, losses.values())),
                    "validation loss " + (", ".join(f"{value:.3f} at step {step}" for step, value in
                                                    losses.items()) or "never printed"))
    found = saved_steps.find_saves(rehearsal.run)
    files = found.complete.get(rehearsal.total, {})
    yield Check("last checkpoint", bool(files) and not found.broken,
                f"step {rehearsal.total} saved by {len(files)} rank(s)"
                + (f"; broken: {', '.join(path.name for path in found.broken)}" if found.broken else ""))
    yield _agreement(trained_state.digests(rehearsal.run), rehearsal.workers, continued)


def _agreement(digests: Mapping[int, Mapping[int, str]], workers: int, continued: int) -> Check:
    """Whether all ranks held the same bits at every save.

    At the save from which the run continued a rank may have been killed before it logged its state.
    """
    differing = [step for step, ranks in sorted(digests.items()) if len(set(ranks.values())) > 1
                 or (len(ranks) != workers and step != continued)]
    return Check("ranks agree", bool(digests) and not differing,
                 f"trained state of {workers} rank(s) at {len(digests)} save(s): "
                 + (f"different or not logged at step(s) {', '.join(map(str, differing[:3]))}" if differing
                    else "all bits equal"))


def _losses(logs: dict[int, RankLog], total: int) -> Iterator[Check]:
    for rank, log in logs.items():
        losses = [record.loss for record in log.records.values()]
        finite = all(map(math.isfinite, losses))
        quarter = max(len(losses) // 4, 1)
        first, last = statistics.fmean(losses[:quarter]), statistics.fmean(losses[-quarter:])
        passed = list(log.records) == list(range(1, total + 1)) and finite and last < first
        overflows = sum(record.overflow for record in log.records.values())
        yield Check(f"losses of rank {rank}", passed,
                    f"{len(losses)} of {total} steps, {'all finite' if finite else 'NOT all finite'}, mean "
                    f"of the first quarter {first:.3f}, of the last {last:.3f}; {overflows} overflow(s); "
                    f"{statistics.median(record.step_ms for record in log.records.values()):.0f} ms a step")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _last_error(log: Path) -> str:
    lines = [line for line in _text(log).splitlines() if line.startswith("error:")]
    return (lines or _text(log).splitlines() or ["it printed nothing"])[-1]


def require_new(folder: Path) -> Path:
    """Refuses a folder that exists: a rehearsal never touches a run.

    Raises:
        ToolkitError: It exists.
    """
    if folder.exists():
        raise ToolkitError(f"--output_dir {folder} exists already; name a new folder, or remove it")
    return folder
