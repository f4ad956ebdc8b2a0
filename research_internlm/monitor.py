"""Callbacks: what MindFormers' log does not say, and what its resume does not restore.

Padded positions cost as much as text, so samples per second hides what a voucher buys. The record
manifest knows how many tokens a row holds on average; `UsefulTokensMonitor` turns the step time into
useful tokens per second.
"""

from __future__ import annotations

import time

import mindspore
from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore.train.callback import Callback, RunContext


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class UsefulTokensMonitor(Callback):
    """Logs useful (unpadded) tokens per second behind MindFormers' loss line.

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
