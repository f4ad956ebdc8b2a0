"""The few places where a CPU differs from an NPU. Nothing here is active on Ascend.

MindFormers 1.9.0 uses three operators that MindSpore 2.9.0 has no CPU kernel for; `adapt` puts portable
ones in their place, and the slowest cells in faster forms (cpu_cells.py). What a CPU cannot do by settings
alone (flash attention, sink mode, the fused norm) is in yaml/overlays/cpu_tiny.yaml, and
`check_model_config` names the settings that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research_internlm.errors import ToolkitError

# model_config values without which MindFormers' Llama does not compile on a CPU.
CPU_MODEL_CONFIG = {
    "use_rope_slice": True,
    "fused_rms_norm": False,
    "use_flash_attention": False,
    "use_past": False,
    "compute_dtype": ("float32", "float16"),
}


def check_model_config(model_config: Mapping[str, Any], device_target: str) -> None:
    """Refuses a model configuration a CPU cannot run, before anything is built.

    Raises:
        ToolkitError: `device_target` is CPU and settings differ from what a CPU needs; all are listed.
    """
    if device_target != "CPU":
        return
    defaults = {"fused_rms_norm": True, "compute_dtype": "float16"}
    wrong = []
    for key, needed in CPU_MODEL_CONFIG.items():
        value = model_config.get(key, defaults.get(key, False))
        if value not in (needed if isinstance(needed, tuple) else (needed,)):
            wrong.append(f"{key} is {value}, a CPU needs {needed}")
    if wrong:
        raise ToolkitError(f"model_config cannot run on a CPU: {'; '.join(wrong)}; "
                           "add --overlay yaml/overlays/cpu_tiny.yaml")


def adapt(device_target: str) -> None:
    """Replaces the operators a CPU lacks; call it before any network is built.

    Args:
        device_target: `CPU` or `Ascend`; on anything but `CPU` nothing happens.
    """
    if device_target != "CPU":
        return
    _use_finite_check()
    _use_fast_cells()
    _use_numpy_argmax()
    _use_allreduce_barrier()


def _use_finite_check() -> None:
    """Loss-scale overflow by looking at the gradients; the stock check reads an NPU status register."""
    from mindformers.wrapper import MFTrainOneStepCell
    from mindspore import dtype, ops

    has_non_finite = ops.MultitypeFuncGraph("has_non_finite")

    @has_non_finite.register("Tensor")
    def _has_non_finite(gradient):  # noqa: ANN001 (compiled by MindSpore)
        all_finite = ops.ReduceAll()(ops.IsFinite()(gradient))
        return ops.Reshape()(ops.Cast()(ops.LogicalNot()(all_finite), dtype.float32), (1,))

    # An attribute, because MindSpore's compiler resolves names through the cell.
    MFTrainOneStepCell.has_non_finite = has_non_finite
    MFTrainOneStepCell.get_overflow_status = _overflow_of_gradients


def _overflow_of_gradients(self, status, compute_output):  # noqa: ANN001 (compiled by MindSpore)
    # Joined first: IsFinite costs about the same for one small gradient as for all of them.
    return self._get_distributed_overflow_status_on_infnan_mode(self.has_non_finite,
                                                                (self.join_flat(compute_output),))


def _use_fast_cells() -> None:
    """The slowest parts of a training step in forms that suit a CPU's kernels; same mathematics."""
    from research_internlm import cpu_cells

    cpu_cells.install()


def _use_numpy_argmax() -> None:
    """Greedy decoding picks the token with numpy; mint.argmax has no CPU kernel."""
    import numpy as np
    from mindspore import Tensor, mint

    def argmax(logits: Tensor, dim: int) -> Tensor:
        values = logits.asnumpy() if isinstance(logits, Tensor) else logits
        return Tensor(np.argmax(values, axis=dim).astype(np.int64))

    mint.argmax = argmax


def _use_allreduce_barrier() -> None:
    """Workers wait for each other through an all-reduce; the Barrier operator has no CPU kernel."""
    import mindformers.trainer.utils as trainer_utils
    from mindspore.communication import comm_func

    def barrier(*_: Any) -> None:
        import numpy as np
        from mindspore import Tensor, ops

        ops.AllReduce()(Tensor(np.ones(1, np.float32))).asnumpy()

    comm_func.barrier = barrier
    trainer_utils.barrier = barrier
