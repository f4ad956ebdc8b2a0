"""A tiny model with a key-value cache of few bits, and the losses of prompts, in a process of its own.

Usage: rounded_cache.py OUTPUT.npz
"""

import sys
import tempfile
from pathlib import Path

import mindspore
import numpy as np

from research_internlm import recipes
from research_internlm.inference.engine import Engine
from research_internlm.inference.kv_quantization import KvQuantization, LayerScales
from tests.helpers.commands import ROOT
from tests.helpers.weight_files import random_tensors, weight_names, write

SIZE = {"vocab_size": 61, "seq_length": 64, "hidden_size": 32, "num_layers": 1, "num_heads": 4,
        "n_kv_heads": 2, "multiple_of": 16, "max_new_tokens": 4, "pad_token_id": 61}
NEW = 4
SCALES = LayerScales(0.02, 0.3, 0.01, -0.1)
NEVER = 61


def of_layer(engine, x):
    """Values, and rotated keys, of the first layer for x (1, length, hidden)."""
    attention = engine.score_network.model.layers[0].attention
    values = attention.wv(mindspore.Tensor(x)).asnumpy()
    keys = mindspore.Tensor(x.reshape(1, x.shape[1], 4, 8).swapaxes(1, 2)[:, :2].copy())
    angles = engine.score_network.model.freqs_mgr
    freqs = (angles.freqs_cos[:x.shape[1]], angles.freqs_sin[:x.shape[1]], angles.swap_mask)
    return values, attention.apply_rotary_emb(keys, keys, freqs)[1].asnumpy()


def main():
    random = np.random.default_rng(3)
    prompts = [[int(i) for i in random.integers(1, 61, length)] for length in (24, 25, 26)]
    result = {"next": np.concatenate([prompt[1:] for prompt in prompts])}
    yaml = ROOT / "yaml"
    recipe = recipes.resolve(yaml / "predict_mmlu.yaml", [yaml / "overlays" / "cpu_tiny.yaml"], [
        *(f"model.model_config.{key}={value}" for key, value in SIZE.items()), "runner_config.batch_size=3"])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write(Path(folder) / "random.ckpt", random_tensors(
            weight_names.parameter_shapes(recipes.model_config(recipe))))
        x = random.normal(0, 1, (1, 5, 32)).astype(np.float32)
        plain = Engine(recipe, checkpoint, (NEVER,))
        result["values"], result["keys"] = of_layer(plain, x)
        static = Engine(recipe, checkpoint, (NEVER,), kv=KvQuantization(8, [SCALES]))
        result["layer values"], result["layer keys"] = of_layer(static, x)
        rounded = Engine(recipe, checkpoint, (NEVER,), kv=KvQuantization(8))
        result["token values"], result["token keys"] = of_layer(rounded, x)
        result["losses"] = np.concatenate(plain.token_losses(prompts))
        everything = [list(range(61))] * 75
        starts = [prompt[:place] for prompt in prompts for place in range(1, len(prompt))]
        result["logits"] = plain.next_token_scores(starts, everything[:len(starts)])
        generated = rounded.generate(prompts)
        # Each answer again, from one pass over everything before each token.
        asked = [prompt + answer[:place] for prompt, answer in zip(prompts, generated, strict=True)
                 for place in range(NEW)]
        result["generated"] = np.array(generated)
        scores = rounded.next_token_scores(asked, everything[:len(asked)])
        result["by passes"] = scores.argmax(-1).reshape(3, NEW)
        result["change"] = scores - plain.next_token_scores(asked, everything[:len(asked)])
    np.savez(sys.argv[1], **result)


main()
