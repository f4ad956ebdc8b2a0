"""MindFormers' CheckpointMonitor, counting steps from the start of the run also after a resume.

MindFormers 1.9.0 resumes weights, optimizer, loss scale and data position, but its callbacks count the steps
of the process: after a resume in the middle of an epoch, saves and evaluations come at other steps than
planned and file names tell the wrong step. MindSpore's own fault recovery starts `cur_step_num` at the
absolute step and sets `initial_step` to 0 (mindspore/train/model.py, Model._train); so does this monitor,
for all callbacks at once. Retention spares the five checkpoints that are to be handed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mindformers.core.callback import callback
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore.train.callback import RunContext
from mindspore.train.callback._checkpoint import CheckpointManager

from research_internlm.contest.schedule import evenly_spaced, expendable, saves_of

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
    """Saves at the planned steps of the run, under names that tell them; arguments as MindFormers' own."""

    def begin(self, run_context: RunContext) -> None:
        """Starts all callbacks' step count where the loaded checkpoint stands."""
        parameters = run_context.original_args()
        # Without the number that is put behind it where the folder has files already: names are unique by
        # step, and a step that is done again replaces its file.
        self._prefix = f"{self.origin_prefix}_rank_{self.rank_id}"
        done, self._append_step_num = self._append_step_num, 0
        parameters.cur_step_num, parameters.initial_step = done, 0
        self._last_triggered_step = done - done % self.save_checkpoint_steps
        steps_per_epoch = parameters.batch_num
        total = (done // steps_per_epoch + parameters.epoch_num) * steps_per_epoch
        sink_size = steps_per_epoch if parameters.dataset_sink_mode else 1
        saves = saves_of(total, self.save_checkpoint_steps, sink_size)
        planned = evenly_spaced(saves, total, sink_size) or ()
        self._manager = _Retention(self._config.format, steps_per_epoch, planned)
        if self.save_trainable_params:
            self._trainable_manager = _Retention(self._config.format, steps_per_epoch, planned)
