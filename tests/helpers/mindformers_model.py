"""Runs a tiny model in MindFormers, in a process of its own, and writes what it computes.

Usage: mindformers_model.py JOB.json, a mapping with `overrides` (of yaml/predict_mmlu.yaml on the CPU),
`checkpoint`, `ids` (.npy, right-padded with 0), `output` (.npz) and, optionally, `new_tokens` (greedy
continuation of each row without its padding), `by_passes` (that by passes over everything, where nothing is
compiled, in place of the engine's cache) and `adapter_run` (folder to make: a run whose adapter is
random; `adapted` in the output then holds the logits of MindFormers' unmerged LoRA).
"""

import copy
import json
import sys
from pathlib import Path

import mindspore
import numpy as np
from mindformers import MindFormerConfig
from mindformers.models.build_model import build_network

from research_internlm import recipes
from research_internlm.checkpoints import weight_names
from research_internlm.inference.engine import Engine
from tests.helpers.commands import ROOT

OVERLAY = ROOT / "yaml" / "overlays" / "cpu_tiny.yaml"
NEVER = 10**6  # a stop id no model produces


def logits(network, ids):
    network.set_train(False)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # one call: compiling takes longer
    try:
        return network(mindspore.Tensor(ids.astype(np.int32)))[0].asnumpy()
    finally:
        mindspore.set_context(mode=mindspore.GRAPH_MODE)


def greedy(network, ids, new_tokens):
    ids = ids.copy()
    lengths, rows = (ids != 0).sum(1), np.arange(len(ids))
    answers = []
    for step in range(new_tokens):
        chosen = logits(network, ids)[rows, lengths + step - 1].argmax(-1)
        ids[rows, lengths + step] = chosen
        answers.append(chosen)
    return np.stack(answers, 1)


def make_adapter_run(recipe, job, folder):
    """Saves a random adapter where a run leaves it; returns MindFormers' logits with it, unmerged."""
    (folder / "checkpoint_trainable" / "rank_0").mkdir(parents=True)
    resolved = recipes.write_resolved(recipe, folder / "resolved_config.yaml")
    network = build_network(MindFormerConfig(str(resolved)).model)
    base = mindspore.load_checkpoint(job["checkpoint"],
                                     format=Path(job["checkpoint"]).suffix.removeprefix("."))
    mindspore.load_param_into_net(network, base)
    random = np.random.default_rng(5)
    adapter = []
    for parameter in network.get_parameters():
        if "mindpet_delta_lora" in parameter.name:
            values = random.normal(0, 0.05, parameter.shape).astype(np.float32)
            parameter.set_data(mindspore.Tensor(values))
            adapter.append({"name": parameter.name, "data": parameter})
    mindspore.save_checkpoint(adapter, str(folder / "checkpoint_trainable" / "rank_0" / "adapter.ckpt"))
    full = [{"name": parameter.name, "data": parameter} for parameter in network.get_parameters()]
    full.append({"name": "adam_m." + adapter[0]["name"], "data": adapter[0]["data"]})
    full.append({"name": "step_num", "data": mindspore.Tensor(3, mindspore.int64)})
    (folder / "checkpoint" / "rank_0").mkdir(parents=True)
    mindspore.save_checkpoint(full, str(folder / "checkpoint" / "rank_0" / "full.ckpt"))
    return logits(network, np.load(job["ids"]))


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    ids = np.load(job["ids"])
    recipe = recipes.resolve(ROOT / "yaml" / "predict_mmlu.yaml", [OVERLAY], job["overrides"])
    model_config = recipes.model_config(recipe)
    model = Engine(copy.deepcopy(recipe), job["checkpoint"], stop_ids=(NEVER,))
    built = [parameter.name for parameter in model.network.get_parameters()]
    result = {"logits": logits(model.network, ids), "built": np.array(sorted(built)),
              "names": np.array(sorted(weight_names.parameter_shapes(model_config)))}
    if "by_passes" in job:
        result["generated"] = greedy(model.network, ids, job["new_tokens"])
    elif "new_tokens" in job:
        model.max_new_tokens = job["new_tokens"]
        result["generated"] = np.array(model.generate([[int(i) for i in row if i] for row in ids]))
    if "adapter_run" in job:
        result["adapted"] = make_adapter_run(recipe, job, Path(job["adapter_run"]))
    np.savez(job["output"], **result)


main()
