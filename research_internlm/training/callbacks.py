"""Callbacks: what MindFormers' log does not say, and what its resume does not restore.

Padded positions cost as much as text, so samples per second hides what a paid hour buys. The record
manifest knows how many tokens a row holds on average; `UsefulTokensMonitor` turns the step time into
useful tokens per second.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindformers.core.callback import callback
from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_output_root_path, get_real_rank
from mindspore.train.callback import Callback, RunContext
from mindspore.train.callback._checkpoint import CheckpointManager

from research_internlm.recipes.schedule import evenly_spaced, expendable, save_points
from research_internlm.shared import run_layout
from research_internlm.shared.files import write_json
from research_internlm.shared.peak_memory import PEAK_MEMORY, SAVE_TIME, PeakMemory, SaveTime, resident_peak
from research_internlm.shared.schema import to_json

_TIMED_BYTES = 2 << 30  # of a save whose time is measured: enough for a rate, little for a disk


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class UsefulTokensMonitor(Callback):
    """Logs useful (unpadded) tokens per second after MindFormers' loss line.

    Args:
        tokens_per_row: Mean number of unpadded tokens in a row of the training MindRecord; 0 switches
            the line off (no manifest).
        rows_per_step: Rows of one step over all cards.
        steps_per_sink: Steps between two calls of the callback in sink mode.
    """

    def __init__(self, tokens_per_row: float = 0.0, rows_per_step: int = 1, steps_per_sink: int = 1) -> None:
        super().__init__()
        self.tokens_per_call = tokens_per_row * rows_per_step * steps_per_sink
        self._start = 0.0

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """Notes the time at which the step began."""
        self._start = time.time()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Logs one line per step (per sink in sink mode)."""
        if self.tokens_per_call:
            seconds = time.time() - self._start
            step = run_context.original_args().cur_step_num
            logger.info("{ step:[%d], useful_tokens_per_second: %.1f }", step, self.tokens_per_call / seconds)


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class PeakMemoryMonitor(Callback):
    """Writes rank 0's peak memory into the run folder when the training ends; internlm probe reads it."""

    def on_train_end(self, run_context: RunContext) -> None:
        """Writes the file."""
        if get_real_rank() == 0:
            device = mindspore.runtime.max_memory_allocated()  # 0 on a CPU
            peak = PeakMemory(device, "device") if device else PeakMemory(resident_peak(), "resident")
            write_json(Path(get_output_root_path(), PEAK_MEMORY), to_json(peak))


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class SaveTimeMonitor(Callback):
    """Times a save of up to 2 GiB of rank 0's parameters when the training ends; internlm probe reads it."""

    def on_train_end(self, run_context: RunContext) -> None:
        """Writes the file, and removes what was saved."""
        if get_real_rank():
            return
        chosen, size = [], 0
        for parameter in run_context.original_args().train_network.get_parameters():
            if size < _TIMED_BYTES:
                chosen.append({"name": parameter.name, "data": parameter})
                size += parameter.nbytes
        path = Path(get_output_root_path(), "timed_save.ckpt")
        start = time.monotonic()
        mindspore.save_checkpoint(chosen, str(path), integrated_save=False)
        saved = SaveTime(path.stat().st_size, time.monotonic() - start)
        path.unlink()
        write_json(path.with_name(SAVE_TIME), to_json(saved))


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class LossScaleCounters(Callback):
    """Restores how many steps the dynamic loss scale has gone without an overflow.

    MindFormers 1.9.0 saves these counters but loads only the network's and the optimizer's parameters, so
    the scale would next double at another step than in a run that was not interrupted.

    Args:
        resumed_from: The checkpoint this rank continues from.
    """

    NAMES = ("current_iterator_step", "last_overflow_iterator_step")  # mindspore/nn/wrap/loss_scale.py

    def __init__(self, resumed_from: str) -> None:
        super().__init__()
        self._resumed_from = resumed_from

    def on_train_begin(self, run_context: RunContext) -> None:
        """Loads the counters into the training cell."""
        saved = mindspore.load_checkpoint(self._resumed_from, choice_func=self._is_counter)
        for parameter in run_context.original_args().train_network.get_parameters():
            if self._is_counter(parameter.name) and parameter.name in saved:
                parameter.set_data(saved[parameter.name].value())

    def _is_counter(self, name: str) -> bool:
        return name.endswith(self.NAMES)


_PLACE = re.compile(r"-(\d+)_(\d+)\.\w+$")  # epoch and step in it, as the names end


class _Retention(CheckpointManager):
    """Deletes by schedule.expendable, so that a plan knows what will be left.

    Args:
        file_format: Suffix of the files.
        steps_per_epoch: Steps that one epoch of the file names counts.
        planned: Steps whose files stay.
    """

    def __init__(self, file_format: str, steps_per_epoch: int, planned: Sequence[int]) -> None:
        super().__init__(file_format)
        self._steps_per_epoch = steps_per_epoch
        self._planned = frozenset(planned)

    def _step(self, name: str) -> int:
        epoch, step = map(int, _PLACE.search(os.path.basename(name)).groups())
        return (epoch - 1) * self._steps_per_epoch + step

    def remove_oldest_ckpoint_file(self) -> None:
        """Called by MindFormers before a save that would exceed keep_checkpoint_max."""
        files = {self._step(name): name for name in self.ckpoint_filelist}
        if (oldest := expendable(files, self._planned)) is not None:
            self.remove_ckpoint_file(files[oldest])


# Under MindFormers' own name, because the Trainer looks for it in several places.
@MindFormerRegister.register(MindFormerModuleType.CALLBACK, alias="CheckpointMonitor")
class RunCheckpointMonitor(callback.CheckpointMonitor):
    """Saves at the planned steps of the run, under names that tell them.

    In data-parallel training all ranks hold the same bits: rank 0 alone writes, and each rank logs a sha256
    of the trained state, so that the logs show whether they agree.

    MindFormers 1.9.0 resumes weights, optimizer, loss scale and data position, but its callbacks count the
    steps of the process: after a resume in the middle of an epoch, saves and evaluations come at other steps
    than planned and file names tell the wrong step. MindSpore's own fault recovery starts `cur_step_num` at
    the absolute step and sets `initial_step` to 0 (mindspore/train/model.py, Model._train); so does this
    monitor, for all callbacks at once. Retention spares the five checkpoints that are to be submitted.

    Args:
        full_checkpoints: `five`: only the five to submit hold the frozen base; the other saves are what a
            resume needs beside --load_checkpoint. `all`: every save is complete.
        settings: MindFormers' own.
    """

    def __init__(self, full_checkpoints: str = "all", **settings: Any) -> None:
        super().__init__(**settings)
        self._only_five = full_checkpoints == "five"
        self._full_steps: Sequence[int] | None = None
        self._left_out: frozenset[str] = frozenset()
        self._frozen: frozenset[str] = frozenset()

    def begin(self, run_context: RunContext) -> None:
        """Starts all callbacks' step count where the loaded checkpoint stands."""
        parameters = run_context.original_args()
        # Without the number that is appended to it where the folder has files already: names are unique by
        # step, and a step that is done again replaces its file.
        self._prefix = f"{self.origin_prefix}_rank_{self.rank_id}"
        done, self._append_step_num = self._append_step_num, 0
        parameters.cur_step_num, parameters.initial_step = done, 0
        self._last_triggered_step = done - done % self.save_checkpoint_steps
        steps_per_epoch = parameters.batch_num
        total = (done // steps_per_epoch + parameters.epoch_num) * steps_per_epoch
        sink_size = steps_per_epoch if parameters.dataset_sink_mode else 1
        saves = save_points(total, self.save_checkpoint_steps, sink_size)
        planned = evenly_spaced(saves, total, sink_size) or ()
        self._manager = _Retention(self._config.format, steps_per_epoch, planned)
        self._state_manager = _Retention(self._config.format, steps_per_epoch, ())
        if self.save_trainable_params:
            self._trainable_manager = _Retention(self._config.format, steps_per_epoch, planned)
        self._full_steps = planned if self._only_five and planned else None
        network = parameters.network
        if getattr(network, "optimizer", None) is not None:  # the training cell around the model
            network = network.network
        self._frozen = frozenset(parameter.name for parameter in network.get_parameters()
                                 if not parameter.requires_grad)

    def _save_ckpt(self, cb_params: Any, force_to_save: bool = False) -> None:
        """Called by MindFormers after each step; saves where one is due, on the rank that writes."""
        step, start = cb_params.cur_step_num, time.monotonic()
        if step == self._last_triggered_step:
            return
        if self.rank_id == 0 or not _ranks_are_equal():
            super()._save_ckpt(cb_params, force_to_save)
        elif self._check_save_ckpt(cb_params, force_to_save):
            self._last_triggered_step = step
        if step == self._last_triggered_step:
            cb_params.last_saved_step = step  # AnswerMonitor reads it
            logger.info("save of step %d: %s, paused %.2f s", step,
                        "full" if self._is_full(step) else "state", time.monotonic() - start)
            logger.info("trained state of step %d: sha256 %s", step, self._digest(cb_params.train_network))

    def _is_full(self, step: int) -> bool:
        return self._full_steps is None or step in self._full_steps

    def save_checkpoint(self, cb_params: Any) -> None:
        """Writes the full checkpoint, or the state without the frozen base into a folder of its own."""
        with contextlib.nullcontext() if self._is_full(cb_params.cur_step_num) else self._as_state():
            super().save_checkpoint(cb_params)

    @contextlib.contextmanager
    def _as_state(self) -> Iterator[None]:
        before = self._directory, self._manager, self.meta_json
        folder = run_layout.rank_dir(run_layout.state_dir(Path(self._directory).parents[1]), self.rank_id)
        folder.mkdir(parents=True, exist_ok=True)
        self._directory, self._manager = str(folder), self._state_manager
        self.meta_json, self._left_out = str(folder / "meta.json"), self._frozen
        try:
            yield
        finally:
            self._directory, self._manager, self.meta_json = before
            self._left_out = frozenset()

    def _filter_ckpt_not_save(self, x: str, filter_list: Sequence[str]) -> bool:
        return x not in self._left_out and super()._filter_ckpt_not_save(x, filter_list)

    def _digest(self, network: Any) -> str:
        """Of all that training changes: adapter, optimizer, loss scale and its counters.

        After a resume the checkpoint's `loss_scale` is a parameter of the network too, beside `scale_sense`,
        which has the value that counts.
        """
        digest = hashlib.sha256()
        for parameter in sorted(network.get_parameters(), key=lambda parameter: parameter.name):
            if parameter.name not in self._frozen and parameter.name != "loss_scale":
                digest.update(parameter.name.encode())
                digest.update(np.ascontiguousarray(parameter.asnumpy()).tobytes())
        return digest.hexdigest()


def _ranks_are_equal() -> bool:
    """Whether every rank holds all parameters; recipes/schedule.py, writing_workers, says it of a recipe."""
    return (mindspore.get_auto_parallel_context("parallel_mode") in ("data_parallel", "stand_alone")
            and not mindspore.get_auto_parallel_context("enable_parallel_optimizer"))
