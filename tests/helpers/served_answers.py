"""Chat and server over one random model, beside the engine's own answers, in a process of its own.

Usage: served_answers.py TOKENIZER OUTPUT.json
"""

import contextlib
import functools
import io
import json
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import mindspore
import numpy as np

from research_internlm import chat, recipes
from research_internlm.checkpoints import weight_names
from research_internlm.checkpoints.hf_export import export_model
from research_internlm.data.chat_template import render_chat
from research_internlm.data.tokens import load_tokenizer
from research_internlm.inference.engine import Engine
from research_internlm.inference.sampling import Sampling, choose
from research_internlm.inference.text_codec import TextCodec
from research_internlm.model import lora
from research_internlm.serving import server
from research_internlm.serving.app import Settings
from research_internlm.serving.model_source import ModelSource
from research_internlm.serving.scheduler import Scheduler
from research_internlm.shared.files import sha256_of
from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)
from tests.helpers.commands import ROOT
from tests.helpers.scripted_model import serving
from tests.helpers.weight_files import write

LENGTH, NEW, ROWS = 32, 9, 3  # one padded length: compiling is most of the time
SIZE = {"seq_length": LENGTH, "hidden_size": 32, "num_layers": 1, "num_heads": 4, "multiple_of": 16,
        "max_new_tokens": NEW}
PROMPTS = (20, 3, 1, 17, 12, 7, 9)  # tokens
CONFIG, OVERLAY = ROOT / "yaml/predict_mmlu.yaml", ROOT / "yaml/overlays/cpu_tiny.yaml"
QUESTION = "Who wrote it?"


def make_weights(folder, recipe):
    """base.ckpt, the adapter of a run over it, and both in one file as a run's full checkpoint."""
    model_config, random = recipes.model_config(recipe), np.random.default_rng(4)

    def tensor(name, shape):
        return random.normal(1.0 if "norm" in name else 0.0, 0.25, shape).astype(np.float32)

    base = {name: tensor(name, shape)
            for name, shape in weight_names.parameter_shapes(model_config).items()}
    pairs = {}
    rank = model_config["pet_config"]["lora_rank"]
    for name, value in base.items():
        if name.endswith(("wq.weight", "wk.weight", "wv.weight", "wo.weight")):
            a, b = lora.adapter_names(name)
            pairs |= {a: tensor(a, (rank, value.shape[1])), b: tensor(b, (value.shape[0], rank))}
    write(folder / "base.ckpt", base)
    write(folder / "full.ckpt", base | pairs)
    recipes.write_resolved(recipe, folder / "run" / "resolved_config.yaml")
    (folder / "run" / "run.json").write_text(json.dumps(
        {"load_checkpoint_sha256": sha256_of(folder / "base.ckpt")}))
    return write(folder / "run" / "checkpoint_trainable" / "rank_0" / "a.ckpt", pairs)


def logits_of(engine, ids):
    """Logits (tokens, vocab_size) by one pass of MindFormers' network."""
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, :len(ids)] = ids
    return engine.score_network(mindspore.Tensor(padded))[0].asnumpy()[0, :len(ids)]


def logprobs(engine, ids):
    logits = logits_of(engine, ids).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def sampled(engine, prompt, sampling):
    """What engine.stream draws, see engine_answers.py, without its graphs."""
    seen, random = list(prompt), np.random.default_rng(sampling.seed)
    while len(seen) < len(prompt) + NEW:
        token = choose(logits_of(engine, seen)[-1], seen, sampling, random)
        if token in engine.stop_ids:
            break
        seen.append(token)
    return seen[len(prompt):]


def chatted(folder, options):
    """What `echo QUESTION | chat.py` prints, from an exported Hugging Face folder."""
    out = io.StringIO()
    sys.stdin = io.StringIO(QUESTION)
    with contextlib.redirect_stdout(out):
        chat.main(["--config", str(CONFIG), "--overlay", str(OVERLAY), "--load_checkpoint", str(folder),
                   *options])
    return out.getvalue()


def ask_server(source, adapter, prompts):
    """The server's answers: at once, one by one, sampled, and scored."""
    sources = {"base": source, "tuned": ModelSource(**{**source.__dict__, "adapter": str(adapter)})}
    scheduler = Scheduler({name: functools.partial(server.load, one) for name, one in sources.items()}, 64)
    scheduler.start()
    with serving(scheduler, Settings()) as url, httpx.Client(base_url=url, timeout=300) as client:
        def complete(prompt, **more):
            done = client.post("/v1/completions", json={
                "prompt": prompt, "max_tokens": NEW, "temperature": 0, **more})
            assert done.status_code == 200, done.text
            return done.json()["choices"]

        with ThreadPoolExecutor(len(prompts)) as pool:
            together = list(pool.map(lambda prompt: complete(prompt, logprobs=0), prompts))
        scoring = {"max_tokens": 1, "logprobs": 1, "echo": True}
        return {
            "together": [choice["text"] for [choice] in together],
            "logprobs": [choice["logprobs"]["token_logprobs"] for [choice] in together],
            "alone": [complete(prompt)[0]["text"] for prompt in prompts],
            "list": [choice["text"] for choice in complete(prompts)],
            "sampled": [complete(prompt, temperature=1.5, seed=5)[0]["text"] for prompt in prompts[:2]],
            "scored": [choice["logprobs"] for choice in complete(prompts, **scoring)],
            "tuned": complete(prompts[0], model="tuned", **scoring)[0]["logprobs"]["token_logprobs"]}


def reference(engine, tuned, codec, prompts):
    """The same, by the engine and by forward passes."""
    *answers, answer_in_chat = engine.generate([*prompts, codec.encode(render_chat(QUESTION, ""))])
    sampling = Sampling(NEW, temperature=1.5, seed=5)
    scored = []
    for prompt in prompts:
        values = logprobs(engine, prompt)
        own = values[np.arange(len(prompt)), [*prompt[1:], values[-1].argmax()]]
        scored.append({"own": own.tolist(), "most": values.max(-1).tolist()})
    full = [logprobs(engine, [*prompt, *answer])[len(prompt) - 1:-1]
            for prompt, answer in zip(prompts, answers, strict=True)]
    # An end marker that is no end of an answer may be written by a random model; it is no text.
    texts = [codec.decode([token for token in answer if token not in codec.hidden]) for answer in answers]
    return {"answers": texts, "scored": scored,
            "logprobs": [values[np.arange(len(answer)), answer].tolist()
                         for values, answer in zip(full, answers, strict=True)],
            "sampled": [codec.decode(sampled(engine, prompt, sampling)) for prompt in prompts[:2]],
            "chat": codec.decode(answer_in_chat), "tuned": tuned_logprobs(engine, tuned, prompts[0])}


def tuned_logprobs(engine, tuned, prompt):
    """By the engine's compiled network, which keeps the tuned one's weights."""
    weights = {parameter.name: parameter for parameter in tuned.score_network.get_parameters()}
    assert not mindspore.load_param_into_net(engine.score_network, weights, strict_load=True)[0]
    values = logprobs(engine, prompt)
    return values[np.arange(len(values) - 1), prompt[1:]].tolist()


def main():
    tokenizer, output = sys.argv[1:]
    vocab = load_tokenizer(tokenizer).vocab_size()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = [*(f"model.model_config.{key}={value}" for key, value in SIZE.items()),
                   f"model.model_config.vocab_size={vocab}", f"output_dir={folder}",
                   f"runner_config.batch_size={ROWS}"]
        recipe = recipes.resolve(CONFIG, [OVERLAY], options)
        codec = TextCodec(tokenizer, vocab)
        adapter = make_weights(folder, recipe)
        export_model(folder / "base.ckpt", folder / "hf", recipes.model_config(recipe), None, overwrite=False)
        shutil.copy(tokenizer, folder / "hf" / "tokenizer.model")
        random = np.random.default_rng(1)
        prompts = [[int(i) for i in random.integers(300, vocab - 2, length)] for length in PROMPTS]
        base, full = (Engine(recipe, folder / f"{name}.ckpt", codec.special.stop_ids)
                      for name in ("base", "full"))
        result = {"engine": reference(base, full, codec, prompts)}
        result["chat"] = chatted(folder / "hf", options)
        source = ModelSource(str(CONFIG), str(folder / "base.ckpt"), tokenizer, None, (str(OVERLAY),),
                             tuple(options))
        result["server"] = ask_server(source, adapter, prompts)
    Path(output).write_text(json.dumps(result))


main()
