"""Compares kv_cache.py with MindFormers' own generate and forward pass on a random model.

A process of its own, because MindFormers keeps one context per process. Usage:
cached_and_stock_generation.py internlm|internlm2 OUTPUT.json; prints nothing. Merged weights are compared in
the first family only, prompts alone in the second: each takes a compilation.
"""

import json
import sys
import tempfile
from pathlib import Path

import mindspore
import numpy as np
from mindformers import MindFormerConfig, build_context
from mindformers.models.build_model import build_network

from research_internlm import recipes
from research_internlm.inference.kv_cache import StaticCacheDecoder
from research_internlm.inference.loading import merge_adapter
from research_internlm.model import (
    cpu_patches,
    modeling,  # noqa: F401 (registers the classes)
)
from tests.helpers.commands import ROOT

VOCAB, LENGTH, PADDED, NEW = 61, 40, 24, 12
PAD = VOCAB - 1  # by which MindFormers' generate finds the end of a prompt; no prompt holds it
PROMPTS = (24, 9, 1, 17)  # tokens
# No token has the pad id, so the stock forward is plainly causal; with 0 it would hide every token 0.
SIZE = {"vocab_size": VOCAB, "seq_length": LENGTH, "hidden_size": 32, "num_heads": 4,
        "multiple_of": 16, "pad_token_id": VOCAB}
LAYERS = {"internlm": 2, "internlm2": 1}  # compiling is most of the time; a cache a layer is the same in both
OVERLAYS = {"internlm": ("cpu_tiny.yaml",),
            "internlm2": ("internlm2_7b.yaml", "cpu_tiny.yaml", "cpu_tiny_internlm2.yaml")}


def settings(family, folder):
    recipe = recipes.resolve(
        ROOT / "yaml" / "predict_mmlu.yaml", [ROOT / "yaml" / "overlays" / name for name in OVERLAYS[family]],
        [*(f"model.model_config.{key}={value}" for key, value in SIZE.items()), f"output_dir={folder}",
         f"model.model_config.num_layers={LAYERS[family]}",
         f"runner_config.batch_size={len(PROMPTS)}", f"model.model_config.batch_size={len(PROMPTS)}"])
    return MindFormerConfig(str(recipes.write_resolved(recipe, Path(folder) / "resolved.yaml")))


def randomise(network):
    """Every parameter, the biases and both LoRA factors too, which start at 0."""
    random = np.random.default_rng(4)
    for parameter in network.get_parameters():
        spread = 0.4 if parameter.ndim == 1 or "lora" in parameter.name else 0.25
        values = random.normal(1.0 if "norm" in parameter.name else 0.0, spread, parameter.shape)
        if parameter.name.endswith("lm_head.weight"):
            values[0] *= 3  # token 0 is often the likeliest
        parameter.set_data(mindspore.Tensor(values.astype(np.float32)))


def stock_tokens(network, prompts, stop_ids, minimum):
    padded = np.full((len(prompts), max(PROMPTS)), PAD, np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, :len(prompt)] = prompt
    outputs = network.generate(input_ids=padded, do_sample=False, max_new_tokens=NEW, eos_token_id=stop_ids,
                               pad_token_id=PAD, min_new_tokens=minimum)
    return [[int(i) for i in output[len(prompt):]] for output, prompt in zip(outputs, prompts, strict=True)]


def whole_ids(prompts, answers):
    ids = np.zeros((len(prompts), LENGTH), np.int32)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, :PROMPTS[row] + NEW] = [*prompt, *answer]
    return ids


def logit_difference(stock, decoder, prompts, answers):
    """Largest over all steps: the stock model reads prompt and answer at once, the cache token by token."""
    ids = whole_ids(prompts, answers)
    positions = np.array(PROMPTS, np.int32)
    wanted = stock(mindspore.Tensor(ids))[0].asnumpy()
    known = np.where(np.arange(LENGTH) < positions[:, None], ids, 0)
    rows, differences = np.arange(len(ids)), []
    got = decoder.logits(known[:, :PADDED], positions)
    for _ in range(NEW):
        differences.append(np.abs(got - wanted[rows, positions - 1]).max())
        known[rows, positions] = ids[rows, positions]
        got = decoder.next_logits(known, positions)
        positions = positions + 1
    return float(max(differences))


def effect_of_rounding(stock, prompts, answers):
    """Largest change of the logits when each weight is rounded to another neighbouring float32."""
    ids = whole_ids(prompts, answers)
    before = stock(mindspore.Tensor(ids))[0].asnumpy()
    random = np.random.default_rng(0)
    for parameter in stock.get_parameters():
        values = parameter.asnumpy()
        parameter.set_data(mindspore.Tensor(np.nextafter(values, random.choice([-9, 9], values.shape),
                                                         dtype=values.dtype)))
    after = stock(mindspore.Tensor(ids))[0].asnumpy()
    return float(max(np.abs(after - before)[row, :length + NEW].max() for row, length in enumerate(PROMPTS)))


def likeliest(network, prompts, answers):
    """The likeliest token before each token of the answers, by one pass over everything."""
    chosen = network(mindspore.Tensor(whole_ids(prompts, answers)))[0].asnumpy().argmax(-1)
    return [row[length - 1:length - 1 + NEW].tolist() for row, length in zip(chosen, PROMPTS, strict=True)]


def compare(family, causal, prompts):
    decoder = StaticCacheDecoder(causal, len(prompts), LENGTH)
    endless = stock_tokens(causal, prompts, [VOCAB], 0)
    stop_ids = [next(i for i in endless[row][at:] if i) for row, at in ((0, 4), (1, 2))]
    result = {"logit_difference": logit_difference(causal, decoder, prompts, endless),
              "stock_endless": endless, "cached_endless": decoder.generate(prompts, PADDED, NEW, [])}
    if family == "internlm2":
        result["stock_alone"] = [stock_tokens(causal, [prompt], [VOCAB], 0)[0] for prompt in prompts]
    for minimum in (0, 3):
        result[f"stock_{minimum}"] = stock_tokens(causal, prompts, stop_ids, minimum)
        result[f"cached_{minimum}"] = decoder.generate(prompts, PADDED, NEW, stop_ids, minimum)
    return result


def main():
    family, output = sys.argv[1:]
    cpu_patches.adapt("CPU")
    with tempfile.TemporaryDirectory() as folder:
        config = settings(family, folder)
        build_context(config)
        adapted = build_network(config.model)
        pet_config = dict(config.model.model_config.pet_config)
        config.model.model_config.pet_config = None
        plain = build_network(config.model)
    randomise(adapted)
    parameters = {p.name: p for p in adapted.get_parameters()}
    mindspore.load_param_into_net(plain, merge_adapter(parameters, pet_config))
    random = np.random.default_rng(1)
    prompts = [[int(i) for i in random.integers(1, PAD, length)] for length in PROMPTS]
    prompts[0][7] = prompts[3][0] = 0  # the records' pad id, here a token
    causal = adapted.network.network.set_train(False)  # inside MindFormers' LoRA wrappers
    result = compare(family, causal, prompts)
    if family == "internlm":
        result["merged_endless"] = likeliest(plain.set_train(False), prompts, result["cached_endless"])
    result["prompts"] = prompts
    result["rounding"] = effect_of_rounding(causal, prompts, result["stock_endless"])
    result["parameters"] = sorted(p.name for p in plain.get_parameters())
    Path(output).write_text(json.dumps(result))


main()
