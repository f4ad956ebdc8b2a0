"""Loss and LoRA gradients of a tiny model, stock and with cpu_cells, same weights and tokens.

Prints the differences of loss and gradients, how many gradients, and the largest gradient.
"""

import copy
import os
import tempfile
from pathlib import Path

import mindspore
import numpy as np
from mindformers import MindFormerConfig, build_context
from mindformers.models.build_model import build_network

from research_internlm import recipes
from research_internlm.model import (
    cpu_cells,
    modeling,  # noqa: F401 (registers the model)
)

ROOT = Path(__file__).resolve().parents[2]


def loss_and_gradients(config, values):
    """Builds the network, fills it with `values` (or fills `values`), and differentiates its loss."""
    network = build_network(copy.deepcopy(config.model))
    network.set_train(True)
    random = np.random.default_rng(3)
    for parameter in network.get_parameters():
        values.setdefault(parameter.name, random.normal(0, 0.1, parameter.shape).astype(np.float32))
        parameter.set_data(mindspore.Tensor(values[parameter.name]))
    ids = np.random.default_rng(4).integers(3, 99, (2, 33)).astype(np.int32)
    ids[1, 20:] = 0
    labels = np.where((np.arange(33) > 9) & (ids > 0), ids, -100).astype(np.int32)
    weights = network.trainable_params()
    loss, gradients = mindspore.value_and_grad(network, None, weights)(
        mindspore.Tensor(ids), mindspore.Tensor(labels))
    return loss.asnumpy(), [gradient.asnumpy() for gradient in gradients]


def main():
    folder = os.environ["LOG_MF_PATH"] = tempfile.mkdtemp()
    os.chdir(folder)  # MindFormers writes ./output
    recipe = recipes.resolve(ROOT / "yaml/lora_finetune.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"], [
        "model.model_config.num_layers=2", "model.model_config.hidden_size=32", "use_parallel=False",
        "model.model_config.num_heads=2", "model.model_config.vocab_size=99", f"output_dir={folder}",
        "model.model_config.seq_length=32", "model.model_config.pet_config.lora_dropout=0.0"])
    config = MindFormerConfig(str(recipes.write_resolved(recipe, Path(folder) / "config.yaml")))
    build_context(config)
    config.model.model_config.disable_lazy_inline = True
    values = {}
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # saves compiling what training does not use
    stock_loss, stock = loss_and_gradients(config, values)
    cpu_cells.install()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    loss, fast = loss_and_gradients(config, values)
    print(np.abs(loss - stock_loss).max(),
          max(np.abs(one - other).max() for one, other in zip(fast, stock, strict=True)), len(fast),
          max(np.abs(one).max() for one in stock))


main()
