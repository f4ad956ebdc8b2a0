"""Prints the largest logit difference between merged and unmerged LoRA, and between merged and base.

A process of its own, because MindFormers keeps one context per process. Usage: merged_logits.py RUN_DIR
"""

import sys
from pathlib import Path

import mindspore
import numpy as np
from mindformers import MindFormerConfig, build_context
from mindformers.models.build_model import build_network

from research_internlm.inference.loading import merge_adapter, read_weights
from research_internlm.model import (
    cpu_patches,
    modeling,  # noqa: F401
)
from research_internlm.training import callbacks  # noqa: F401


def logits(network, ids):
    network.set_train(False)
    return network(mindspore.Tensor(ids))[0].asnumpy()


def main():
    run = Path(sys.argv[1])
    cpu_patches.adapt("CPU")
    config = MindFormerConfig(str(run / "resolved_config.yaml"))
    build_context(config)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # each network runs once: compiling takes longer
    checkpoint = sorted((run / "checkpoint" / "rank_0").glob("*.ckpt"))[-1]
    length = config.model.model_config.seq_length
    ids = np.arange(7, 7 + length, dtype=np.int32)[None]
    pet_config = dict(config.model.model_config.pet_config)

    adapted = build_network(config.model)
    parameters = read_weights(checkpoint)
    mindspore.load_param_into_net(adapted, parameters)
    unmerged = logits(adapted, ids)

    config.model.model_config.pet_config = None
    plain = build_network(config.model)
    base = {name: value for name, value in read_weights(checkpoint).items() if "lora" not in name}
    mindspore.load_param_into_net(plain, base)
    before = logits(plain, ids)
    mindspore.load_param_into_net(plain, merge_adapter(parameters, pet_config))
    merged = logits(plain, ids)
    print(np.abs(merged - unmerged).max(), np.abs(merged - before).max())


main()
