"""Asks one engine of a random model in all ways, in a process of its own.

Usage: engine_answers.py OUTPUT.json
"""

import json
import sys
import tempfile
from pathlib import Path

import mindspore
import numpy as np

from research_internlm import recipes
from research_internlm.checkpoints import weight_names
from research_internlm.inference.engine import Engine
from research_internlm.inference.sampling import Sampling, choose
from tests.helpers.commands import ROOT

VOCAB, LENGTH, NEW = 61, 64, 9
NEVER = VOCAB  # a stop id no model writes
SIZE = {"vocab_size": VOCAB, "seq_length": LENGTH, "hidden_size": 32, "num_layers": 1, "num_heads": 4,
        "multiple_of": 16, "max_new_tokens": NEW, "pad_token_id": VOCAB}
PROMPTS = (24, 9, 1, 40, 33)  # tokens: two padded lengths of a stream, and more than a batch
SAMPLED = Sampling(NEW, temperature=1.5, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=5)


def random_checkpoint(model_config, path):
    random = np.random.default_rng(4)
    parameters = []
    for name, shape in weight_names.parameter_shapes(model_config).items():
        values = random.normal(1.0 if "norm" in name else 0.0, 0.25, shape).astype(np.float32)
        parameters.append({"name": name, "data": mindspore.Tensor(values)})
    mindspore.save_checkpoint(parameters, str(path))


def forward(engine, ids):
    """Logits (vocab_size,) after the last token, by one pass of MindFormers' network over everything."""
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, :len(ids)] = ids
    return engine.score_network(mindspore.Tensor(padded))[0].asnumpy()[0, len(ids) - 1]


def sampled_by_forward(engine, prompt):
    """What a sampled stream must be: each token chosen from a forward pass over all before it."""
    seen, random = list(prompt), np.random.default_rng(SAMPLED.seed)
    for _ in range(NEW):
        seen.append(choose(forward(engine, seen), seen, SAMPLED, random))
    return seen[len(prompt):]


def interleaved(engine, prompts):
    """The error where a stream is read on after another one was started."""
    first, second = (engine.stream(prompt, Sampling(NEW)) for prompt in prompts[:2])
    next(first)
    next(second)
    try:
        next(first)
    except RuntimeError as error:
        return str(error)
    return None


def main():
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*(f"model.model_config.{key}={value}" for key, value in SIZE.items()),
                     f"output_dir={folder}", "runner_config.batch_size=3"]
        overlay = [ROOT / "yaml" / "overlays" / "cpu_tiny.yaml"]
        config = ROOT / "yaml" / "predict_mmlu.yaml"
        recipe = recipes.resolve(config, overlay, overrides)
        checkpoint = Path(folder) / "random.ckpt"
        random_checkpoint(recipes.model_config(recipe), checkpoint)
        random = np.random.default_rng(1)
        prompts = [[int(i) for i in random.integers(1, VOCAB, length)] for length in PROMPTS]
        engine = Engine(recipe, checkpoint, (NEVER,))
        result = {"one network": engine.network is engine.score_network}
        endless = engine.generate(prompts)
        result["endless"] = [endless, [list(engine.stream(prompt, Sampling(NEW))) for prompt in prompts]]
        result["short"] = [[answer[:2] for answer in endless],
                           [list(engine.stream(prompt, Sampling(2))) for prompt in prompts]]
        result["full"] = len(list(engine.stream(prompts[3], Sampling(1000))))
        candidates = [[number, number + 7, 3] for number in range(len(prompts))]
        result["scores"] = [engine.next_token_scores(prompts, candidates).tolist(), [
            forward(engine, prompt)[asked].tolist()
            for prompt, asked in zip(prompts, candidates, strict=True)]]
        result["sampled"] = [[list(engine.stream(prompt, SAMPLED)) for prompt in prompts],
                             [sampled_by_forward(engine, prompt) for prompt in prompts]]
        result["interleaved"] = interleaved(engine, prompts)
        engine.stop_ids = (endless[0][2], endless[1][0])
        for minimum in (0, 3):
            engine.min_new_tokens = minimum
            result[f"stopped {minimum}"] = [
                engine.generate(prompts), [list(engine.stream(prompt, Sampling(NEW))) for prompt in prompts]]
        # A recipe that the static cache does not know: MindFormers' own generation.
        stock = Engine(recipes.resolve(config, overlay, [
            *overrides, "model.model_config.repetition_penalty=1.2"]), checkpoint, engine.stop_ids)
        stock.min_new_tokens = 3
        result["stock"] = [list(stock.stream(prompt, Sampling(NEW))) for prompt in prompts]
    Path(sys.argv[1]).write_text(json.dumps(result))


main()
