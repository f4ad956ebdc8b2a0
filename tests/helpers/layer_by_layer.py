"""Quantises a tiny model in a process of its own: killed in the middle and continued, and at once.

Usage: layer_by_layer.py FOLDER, which holds tokenizer.model and items.json
"""

import json
import os
import signal
import sys
from pathlib import Path

import mindspore
import numpy as np

from research_internlm import recipes, weights
from research_internlm.inference.engine import Engine
from research_internlm.inference.text_codec import TextCodec
from research_internlm.quantisation import quantize
from research_internlm.quantisation.calibration import read_sequences
from research_internlm.quantisation.layer_network import LayerNetwork
from research_internlm.quantisation.source import Weights, layer_name
from tests.helpers.commands import ROOT
from tests.helpers.tiny_quantised import GROUP, make_model


def command(kind, folder, name):
    """The arguments of a calibrated command."""
    return [kind, "--model", str(folder / "model.ckpt"), "--config", str(folder / "model.yaml"),
            "--model_file", str(folder.parent / "tokenizer.model"), "--output", str(folder / name),
            "--calibration", str(folder.parent / "items.json"), "--samples", "6", "--length", "48"]


def awq(folder, name):
    return [*command("quantize", folder, name), "--group_size", str(GROUP)]


def killed_after_two_layers(folder):
    """Runs the command in a fork that is killed while the third layer's stage is written."""
    child = os.fork()
    if child == 0:
        keep = quantize._keep

        def keep_two(stages, layer, made):
            if layer == 2:
                stages.layer(2, ".npz").with_name(".newlayer_002.npz").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            keep(stages, layer, made)

        quantize._keep = keep_two
        weights.main(awq(folder, "continued"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main():
    folder = Path(sys.argv[1])
    biased = folder / "biased"
    checkpoint, _, _, config = make_model(biased, folder / "tokenizer.model")
    killed_after_two_layers(biased)
    done = {"stages": sorted(path.name for path in (biased / "continued.stages").iterdir())}
    weights.main(awq(biased, "continued"))
    weights.main(awq(biased, "at_once"))
    weights.main(command("calibrate", biased, "statistics"))
    weights.main([*awq(biased, "golden_stick"), "--format", "mindspore"])
    loaded = mindspore.load_checkpoint(str(biased / "golden_stick" / "model.ckpt"))
    packed = loaded["model.layers.1.feed_forward.w2._layer.weight"]
    done["packed"] = [str(packed.dtype), list(packed.shape)]
    # The layers one by one are the network: hidden states of both, after the last layer.
    ids = np.random.default_rng(1).integers(3, config["vocab_size"], (3, 40))
    network = LayerNetwork(config, ids.shape[1])
    with Weights(checkpoint) as values:
        hidden = values.embed(ids)
        for layer in range(config["num_layers"]):
            network.load(lambda name, layer=layer: values.read(layer_name(layer, name)))
            hidden = np.concatenate([output for output, _ in network.run(hidden)])
        norm, head = values.read("model.norm_out.weight"), values.read("lm_head.weight")
    normed = hidden / np.sqrt((hidden ** 2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * norm
    logits = normed[:, -1] @ head.T
    resolved = recipes.resolve(ROOT / "yaml" / "predict_mmlu.yaml", [ROOT / "yaml/overlays/cpu_tiny.yaml"], [
        f"model.model_config.{key}={f'{value:f}' if isinstance(value, float) else value}"
        for key, value in config.items() if key != "type"])
    engine = Engine(resolved, checkpoint, (2,))
    ids_of_calibration, _ = read_sequences(folder / "items.json", TextCodec(
        folder / "tokenizer.model", config["vocab_size"]), 6, 48)
    with Weights(checkpoint) as values:
        first = values.embed(ids_of_calibration)
        first = first / np.sqrt((first ** 2).mean(-1, keepdims=True) + config["rms_norm_eps"])
        first = first * values.read("model.layers.0.attention_norm.weight")
        made = first @ values.read("model.layers.0.attention.wv.weight").T
        made += values.read("model.layers.0.attention.wv.bias")
    done["values"] = made.reshape(-1, 4, 16).max((0, 2)).tolist()
    asked = [[5, 6, 7]] * len(ids)
    done["logits"] = [logits[:, 5:8].tolist(), engine.next_token_scores(ids.tolist(), asked).tolist()]
    (folder / "done.json").write_text(json.dumps(done))


main()
