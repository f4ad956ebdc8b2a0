"""Checks that cpu_patches.adapt leaves MindSpore and MindFormers untouched for Ascend."""

import mindformers.trainer.utils as trainer_utils
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import mint
from mindspore.communication import comm_func

from research_internlm.model import cpu_patches


def state():
    return (mint.argmax, MFTrainOneStepCell.get_overflow_status, comm_func.barrier, trainer_utils.barrier)


before = state()
cpu_patches.adapt("Ascend")
assert state() == before
cpu_patches.check_model_config({"use_flash_attention": True, "use_past": True}, "Ascend")
cpu_patches.adapt("CPU")
assert all(new is not old for new, old in zip(state(), before, strict=True))
