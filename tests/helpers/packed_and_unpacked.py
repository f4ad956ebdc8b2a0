"""Loss and LoRA gradients of the same samples, unpacked and packed, with full head and head at labels.

A process of its own, because MindFormers keeps one context per process. Compiling a network takes ten times
as long as running it operator by operator, so one way alone is compiled, as training does; all layers get the
same mask and positions, so there is one. Usage: packed_and_unpacked.py FAMILY OUTPUT.npz; the arrays' names
tell what they are.
"""

import copy
import sys
import tempfile
from pathlib import Path

import mindspore
import numpy as np
from mindformers import MindFormerConfig, build_context
from mindformers.core.metric import PerplexityMetric
from mindformers.models.build_model import build_network

from research_internlm import recipes
from research_internlm.model import (
    cpu_patches,
    modeling,  # noqa: F401 (registers the classes)
)
from research_internlm.training.accumulation import AccumulatingTrainOneStepCell
from tests.helpers.commands import ROOT

LENGTH, VOCAB = 48, 97  # seq_length; rows are one longer
SAMPLES = [12, 20, 17, 30, 15]  # tokens each
ROWS = [[0, 1, 2], [3, 4]]  # 49 tokens, full to the last, and 45
EVALUATED = [[0, 1], [3, 4], [2]]  # validation rows are one token shorter
SCALE = 1024.0
RECIPES = {"internlm": ["yaml/overlays/cpu_tiny.yaml"],
           "internlm2": ["yaml/overlays/cpu_tiny.yaml", "yaml/overlays/cpu_tiny_internlm2.yaml"]}


def samples():
    random = np.random.default_rng(3)
    for length in SAMPLES:
        ids = random.integers(3, VOCAB, length).astype(np.int32)
        ids[0], ids[-1] = 1, 2
        ids[length // 2] = 0  # the padding's id inside a sample, which the stock mask hides
        labels = np.where(np.arange(length) < length - random.integers(3, 8), -100, ids).astype(np.int32)
        yield ids, labels


def batch(rows, found, length=LENGTH + 1):
    shape = (len(rows), length)
    ids, labels = np.zeros(shape, np.int32), np.full(shape, -100, np.int32)
    for number, row in enumerate(rows):
        tokens, targets = (np.concatenate([found[sample][part] for sample in row]) for part in (0, 1))
        ids[number, :len(tokens)], labels[number, :len(tokens)] = tokens, targets
    return mindspore.Tensor(ids), mindspore.Tensor(labels)


def build(recipe, first=False, **settings):
    recipe = copy.deepcopy(recipe)
    recipes.model_config(recipe).update(settings)
    with tempfile.TemporaryDirectory() as folder:
        config = MindFormerConfig(str(recipes.write_resolved(recipe, Path(folder) / "resolved.yaml")))
    config.model.model_config.disable_lazy_inline = True  # as the Trainer does without pipelines
    if first:
        build_context(config)
    network = build_network(config.model)
    random = np.random.default_rng(5)
    for parameter in network.get_parameters():
        values = random.normal(0, 0.1, parameter.shape).astype(np.float32)
        parameter.set_data(mindspore.Tensor(values if parameter.ndim > 1 else 1 + values))
    return network


def loss_and_gradients(network, ids, labels):
    network.set_train(True)
    adapter = [parameter for parameter in network.trainable_params() if "lora" in parameter.name]
    loss, gradients = mindspore.value_and_grad(network, None, adapter)(ids, labels)
    return loss.asnumpy(), np.concatenate([gradient.asnumpy().ravel() for gradient in gradients])


def main():
    family, output = sys.argv[1:]
    cpu_patches.adapt("CPU")
    recipe = recipes.resolve(
        ROOT / ("yaml/lora_finetune.yaml" if family == "internlm" else "yaml/lora_finetune_internlm2.yaml"),
        [ROOT / overlay for overlay in RECIPES[family]],
        ["runner_config.batch_size=2", "context.mode=PYNATIVE_MODE", "use_parallel=False",
         f"model.model_config.vocab_size={VOCAB}", f"model.model_config.seq_length={LENGTH}",
         "model.model_config.num_layers=1", "model.model_config.hidden_size=64",
         "model.model_config.pet_config.lora_dropout=0.0"])
    found = list(samples())
    most = max(int(sum((found[sample][1] != -100).sum() for sample in row)) for row in ROWS)
    unpacked, packed = batch([[number] for number in range(len(found))], found), batch(ROWS, found)
    result = {}
    stock = build(recipe, first=True)
    result["unpacked_loss"], result["unpacked_gradients"] = loss_and_gradients(stock, *unpacked)
    result["leaking_loss"], _ = loss_and_gradients(stock, *packed)
    for name, data, settings in (("packed", packed, {"packed": True}),
                                 ("at_labels", packed, {"packed": True, "labels_per_row": most}),
                                 ("spare", packed, {"packed": True, "labels_per_row": most + 9}),
                                 ("unpacked_at_labels", unpacked, {"labels_per_row": most})):
        result[f"{name}_loss"], result[f"{name}_gradients"] = loss_and_gradients(
            build(recipe, **settings), *data)
    network = build(recipe, packed=True, labels_per_row=most)
    result["accumulated_loss"], result["accumulated_gradients"] = in_parts(network, *packed)
    for name, rows in (("unpacked", [[number] for number in range(len(found))]), ("packed", EVALUATED)):
        result[f"{name}_evaluation"] = evaluation_loss(network, *batch(rows, found, LENGTH))
    result["change"] = change(network, packed[0])
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    result["compiled_loss"], result["compiled_gradients"] = loss_and_gradients(network, *packed)
    np.savez(output, **result)


def in_parts(network, ids, labels):
    """One row at a time, under a loss scale."""
    network.set_train(True)
    adapter = [parameter for parameter in network.trainable_params() if "lora" in parameter.name]
    cell = AccumulatingTrainOneStepCell(network, mindspore.nn.SGD(adapter), micro_batches=len(ROWS),
                                        scale_sense=mindspore.nn.FixedLossScaleUpdateCell(SCALE))
    loss, gradients, factor = cell.grads_for_legacy(mindspore.Tensor(SCALE, mindspore.float32), ids, labels)
    assert factor.asnumpy() == 1
    return loss.asnumpy(), np.concatenate([gradient.asnumpy().ravel() / SCALE for gradient in gradients])


def evaluation_loss(network, ids, labels):
    """MindFormers' metric of validation rows."""
    network.set_train(False)
    metric = PerplexityMetric()
    metric.clear()
    metric.update(*network(ids, labels))
    return metric.eval()["loss"]


def change(network, ids):
    """Largest change of each position's logits when tokens inside one sample change."""
    network.set_train(False)
    before = network(ids[:, :-1])[0].asnumpy()
    changed = ids.asnumpy().copy()  # asnumpy shares the memory
    changed[0, 13:30] = 5 + changed[0, 13:30] % 7  # inside the second sample, tokens 12 to 31
    return np.abs(network(mindspore.Tensor(changed[:, :-1]))[0].asnumpy() - before).max(axis=-1)


main()
