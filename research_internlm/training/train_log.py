"""Writes train_log.jsonl, the training's loss lines as JSON, from the callback that logs them as text."""

from __future__ import annotations

import inspect
import statistics
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindformers.core.callback import callback
from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_output_root_path, get_real_rank

from research_internlm.runs.log_summary import useful_tokens_per_step
from research_internlm.runs.log_warnings import RECENT
from research_internlm.runs.train_log_file import TrainLogLine, append, drop_from
from research_internlm.shared.run_layout import TRAIN_LOG

_LOSS_LINE = inspect.signature(callback.MFLossMonitor.print_output_info)


# Under MindFormers' own name, because the Trainer tells the schedule and the size of the data only to the
# callback of that name. So every recipe that logs its loss has the file too, and no key of a recipe changes.
@MindFormerRegister.register(MindFormerModuleType.CALLBACK, alias="MFLossMonitor")
class RunLossMonitor(callback.MFLossMonitor):
    """Logs MindFormers' loss line and writes the values it is given for it to train_log.jsonl.

    One worker writes: rank 0, or the first rank of the last pipeline stage, the only one with a loss. Its
    loss is the mean over its own shard of the step's rows, as in its text log; nothing is averaged over the
    workers, which would cost an exchange a step. Arguments as MindFormers' own.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._tokens_per_step: float | None = None
        self._step_times: deque[float] = deque(maxlen=RECENT)

    def print_output_info(self, *values: Any) -> None:
        """Called by MindFormers with what a loss line says."""
        super().print_output_info(*values)
        if self._is_writer():
            try:
                self._write(_LOSS_LINE.bind(self, *values).arguments)
            except OSError as error:  # a full disk need not end a training that the text log tells of too
                logger.warning("%s lacks a line: %s", TRAIN_LOG, error)

    def _is_writer(self) -> bool:
        stages = mindspore.get_auto_parallel_context("pipeline_stages")
        is_on_rank_0 = stages == 1 or self.is_zbv  # zero-bubble-v brings the loss back to the first stage
        return get_real_rank() == (0 if is_on_rank_0 else self.device_num - self.device_num // stages)

    def _write(self, values: Mapping[str, Any]) -> None:
        """Writes the line; its per_step_seconds are milliseconds, its overflow is a text if False."""
        epoch, steps = values["cur_epoch_num"], values["steps_per_epoch"]
        step, total = (epoch - 1) * steps + values["cur_step_num"], values["origin_epochs"] * steps
        path = Path(get_output_root_path(), TRAIN_LOG)
        if not self._step_times:  # this process's first line
            drop_from(path, step)
            self._tokens_per_step = useful_tokens_per_step(path.parent)
        step_ms, tokens = float(values["per_step_seconds"]), self._tokens_per_step
        self._step_times.append(step_ms)
        pace = statistics.median_low(self._step_times)  # low: the first step compiles
        append(path, TrainLogLine(
            step=step, total_steps=total, epoch=epoch, loss=float(values["loss"]),
            step_ms=round(step_ms, 3), learning_rate=_number(self.learning_rate),
            overflow=not isinstance(values["overflow"], str), loss_scale=_number(values["scaling_sens"]),
            global_norm=_number(values["global_norm"]), time=datetime.now().astimezone(),
            rank=get_real_rank(),
            useful_tokens_per_s=round(tokens * 1000 / step_ms, 1) if tokens and step_ms else None,
            peak_memory_bytes=mindspore.runtime.max_memory_allocated() or None,
            eta_s=round((total - step) * pace / 1000, 1)))


def _number(value: Any) -> float | None:
    """A number however MindFormers holds it; None for one that is unavailable or a schedule."""
    if isinstance(value, mindspore.Tensor):
        value = value.asnumpy()
    return float(np.ravel(value)[0]) if isinstance(value, (int, float, np.ndarray, np.generic)) else None
