"""Small full checkpoints of a run, written by hand."""

from __future__ import annotations

import numpy as np

from research_internlm.checkpoints.ckpt_format import value_start
from research_internlm.checkpoints.dtypes import Entry


def checkpoint(folder, step, size=2000, cut=0):
    """Writes a checkpoint as MindSpore does, of `size` numbers; `cut` bytes are missing at its end."""
    path = folder / "checkpoint" / "rank_0" / f"tiny_rank_0-1_{step}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for name, value in (("model.w", np.random.default_rng(step).random(size, np.float32)),
                        ("step_num", np.array(step, np.int32)), ("epoch_num", np.array(1, np.int32)),
                        ("loss_scale", np.array(1, np.float32)),
                        ("global_batch_size", np.array(4, np.int32))):
        content += value_start(name, Entry(value.shape, value.dtype), value.nbytes) + value.tobytes()
    path.write_bytes(content[:len(content) - cut])
    return path
