"""Proof that weights mean the same on both sides: transformers and PEFT against MindFormers, on a CPU.

Tiny random models; needs torch and peft (pip install -e '.[hf]').
"""

import json
import sys
from importlib.machinery import PathFinder
from types import SimpleNamespace

import numpy as np
import pytest

from research_internlm import weights
from research_internlm.checkpoints.dtypes import BF16
from research_internlm.checkpoints.hf_folder import HfFolder
from research_internlm.checkpoints.hf_tokenizer import tokenizer_texts
from research_internlm.data.chat_template import encode, render_messages
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError
from tests.helpers.warm import run_warm

pytestmark = pytest.mark.model

LENGTH, NEW_TOKENS, VOCAB = 64, 32, 211
SHAPES = {
    "internlm": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 176, "attention_bias": True, "rope_theta": 10000.0,
                 "rms_norm_eps": 1e-6},
    "internlm2": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
                  "intermediate_size": 200, "num_key_value_heads": 2, "attention_bias": False,
                  "rope_theta": 1e6, "rms_norm_eps": 1e-5},
}
TO_RECIPE = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "rope_theta": "theta",
             "num_key_value_heads": "n_kv_heads"}


def to_internlm2(state, heads, groups):
    """A Llama's tensors under InternLM2's names, written here from modeling_internlm2.py's description."""
    fused = {}
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            q, k, v = (state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv")
            size = q.shape[0] // heads
            blocks = []
            for group in range(groups):
                per = heads // groups
                blocks += [q[group * per * size:(group + 1) * per * size], k[group * size:(group + 1) * size],
                           v[group * size:(group + 1) * size]]
            tensor = torch.cat(blocks)
        for theirs, ours in (("self_attn.q_proj", "attention.wqkv"), ("self_attn.o_proj", "attention.wo"),
                             ("mlp.gate_proj", "feed_forward.w1"), ("mlp.up_proj", "feed_forward.w3"),
                             ("mlp.down_proj", "feed_forward.w2"), ("input_layernorm", "attention_norm"),
                             ("post_attention_layernorm", "ffn_norm"), ("embed_tokens", "tok_embeddings"),
                             ("lm_head", "output")):
            name = name.replace(theirs, ours)
        fused[name] = tensor.contiguous()
    return fused


def save_hf(folder, family, model):
    """The release's form: InternLM as sharded .bin with its rotary buffer, InternLM2 as safetensors."""
    model.save_pretrained(folder, max_shard_size="80KB", safe_serialization=family == "internlm2")
    config = json.loads((folder / "config.json").read_text())
    if family == "internlm":
        config |= {"model_type": "internlm", "bias": config.pop("attention_bias")}
        shard = sorted(folder.glob("pytorch_model-*.bin"))[0]
        tensors = torch.load(shard, weights_only=True)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        torch.save(tensors, shard)
    else:
        for old in folder.glob("model*"):
            old.unlink()
        config |= {"model_type": "internlm2", "bias": config.pop("attention_bias")}
        state = to_internlm2(model.state_dict(), config["num_attention_heads"], config["num_key_value_heads"])
        names = sorted(state)
        shards = {f"model-{half + 1:05}-of-00002.safetensors": names[half::2] for half in (0, 1)}
        for file, held in shards.items():
            safetensors_torch.save_file({name: state[name] for name in held}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps(
            {"weight_map": {name: file for file, held in shards.items() for name in held}}))
    (folder / "config.json").write_text(json.dumps(config))


def overrides_of(family):
    shape = SHAPES[family] | {"vocab_size": VOCAB, "seq_length": LENGTH}
    shape.pop("attention_bias")
    keys = {TO_RECIPE.get(key, key): f"{value:.1e}" if isinstance(value, float) else value
            for key, value in shape.items()}
    if family == "internlm2":
        keys |= {"type": "InternLM2Config", "has_bias": "False"}
    return [f"model.model_config.{key}={value}" for key, value in keys.items()] + (
        ["model.arch.type=InternLM2ForCausalLM"] if family == "internlm2" else [])


@pytest.fixture(scope="module", autouse=True)
def libraries():
    """torch, which is hidden from the other tests (conftest.py), and what needs it: 10 s of CPU to import."""
    global torch, peft, transformers, safetensors_torch
    sys.meta_path.append(PathFinder)
    try:
        torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[hf]'")
        peft = pytest.importorskip("peft", reason="needs peft: pip install -e '.[hf]'")
        transformers = pytest.importorskip("transformers")
        safetensors_torch = pytest.importorskip("safetensors.torch")
        yield
    finally:
        sys.meta_path.remove(PathFinder)


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def case(request, tmp_path_factory):
    """A random model on both sides, a padded batch, and everything MindFormers computes with it."""
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **SHAPES[family], vocab_size=VOCAB, tie_word_embeddings=False, max_position_embeddings=LENGTH))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases and norms too: transformers starts them at 0 and 1.
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name or "bias" in name else 0.08))
    model.eval()
    save_hf(folder / "hf", family, model)
    ids = np.zeros((2, LENGTH), np.int64)
    random = np.random.default_rng(3)
    for row, length in enumerate((LENGTH - NEW_TOKENS, 9)):
        ids[row, :length] = random.integers(3, VOCAB, length)
    np.save(folder / "ids.npy", ids)
    form = "safetensors" if family == "internlm2" else "ckpt"
    convert("from-hf", folder / "hf", folder / f"base.{form}", "--dtype", "fp32")
    result = mindformers(folder, "base", family, folder / f"base.{form}", new_tokens=NEW_TOKENS,
                         adapter_run=str(folder / "run"))
    return SimpleNamespace(family=family, folder=folder, model=model, ids=ids, result=result,
                           base=folder / f"base.{form}", form=form)


def convert(*words):
    """Runs weights.py here, where torch is loaded."""
    assert not weights.main([str(word) for word in words])


def mindformers(folder, name, family, checkpoint, **more):
    job = folder / f"{name}.json"
    job.write_text(json.dumps({"overrides": [*overrides_of(family), f"output_dir={folder / 'out'}"],
                               "checkpoint": str(checkpoint), "ids": str(folder / "ids.npy"),
                               "output": str(folder / f"{name}.npz"), **more}))
    run_warm("-m", "tests.helpers.mindformers_model", job)
    return dict(np.load(folder / f"{name}.npz"))


def torch_logits(model, ids):
    with torch.no_grad():
        ids = torch.from_numpy(ids)
        return model(ids, attention_mask=(ids != 0).long()).logits.numpy()


def difference(one, other, ids):
    """Largest difference at the positions that hold tokens."""
    return np.abs(one - other)[ids != 0].max()


def test_logits_of_imported_weights_are_those_of_transformers(case):
    expected = torch_logits(case.model, case.ids)
    assert difference(case.result["logits"], expected, case.ids) < 1e-4
    assert np.abs(expected).max() > 0.5  # the model says something


def test_parameter_names_are_those_mindformers_builds(case):
    assert list(case.result["names"]) == list(case.result["built"])


def test_greedy_generation_gives_the_same_tokens(case):
    for row, generated in zip(case.ids, case.result["generated"], strict=True):
        prompt = torch.from_numpy(row[row != 0])[None]
        output = case.model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                     max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0)
        assert output[0, prompt.shape[1]:].tolist() == generated.tolist()


def config_file(case):
    return case.folder / "run" / "resolved_config.yaml"


def test_to_hf_round_trip_is_bit_exact_and_loads_without_remote_code(case):
    convert("to-hf", case.base, case.folder / "exported", "--config", config_file(case))
    again = transformers.AutoModelForCausalLM.from_pretrained(case.folder / "exported")
    state, expected = again.state_dict(), case.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert np.array_equal(torch_logits(again, case.ids), torch_logits(case.model, case.ids))
    convert("from-hf", case.folder / "exported", case.folder / f"again.{case.form}")
    from research_internlm.checkpoints.tensor_files import TensorFile

    with TensorFile(case.base) as one, TensorFile(case.folder / f"again.{case.form}") as other:
        assert one.entries.keys() == other.entries.keys()
        assert all(np.array_equal(one.read(name), other.read(name)) for name in one.entries)


@pytest.mark.parametrize("adapter", ["checkpoint_trainable/rank_0/adapter.ckpt",
                                     "checkpoint/rank_0/full.ckpt"])
def test_the_exported_adapter_gives_the_same_logits_in_peft(case, adapter):
    output = case.folder / f"peft_{adapter.split('/')[0]}"
    convert("to-peft", case.folder / "run" / adapter, output)
    adapted = peft.PeftModel.from_pretrained(copy_of(case.model), output).eval()
    logits = torch_logits(adapted, case.ids)
    assert difference(case.result["adapted"], logits, case.ids) < 1e-4
    assert difference(logits, torch_logits(case.model, case.ids), case.ids) > 1e-2


def copy_of(model):
    copy = transformers.LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def test_merged_logits_are_the_adapter_s(case):
    merged = case.folder / f"merged.{case.form}"
    convert("merge", "--base", case.base, "--adapter",
            case.folder / "run" / "checkpoint_trainable" / "rank_0" / "adapter.ckpt", "--output", merged)
    result = mindformers(case.folder, "merged", case.family, merged)
    assert difference(result["logits"], case.result["adapted"], case.ids) < 1e-5
    assert difference(result["logits"], case.result["logits"], case.ids) > 1e-2


@pytest.mark.parametrize("family", ["internlm", "internlm2"])
def test_the_exported_tokenizer_gives_training_s_ids(real_data, tmp_path, family):
    model_file = real_data / "tokenizers" / f"{family}.model"
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
    for name, text in tokenizer_texts(model_file, {"vocab_size": special.vocab_size}).items():
        (tmp_path / name).write_text(text)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == special.vocab_size
    for text in ("The right option is A.", "  two  spaces\n\n中文，", "<|User|>:x"):
        assert tokenizer(text)["input_ids"] == [special["bos"], *processor.encode(text)]
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    texts = ("Be kind.", "Do it.\nQuestion: 中 \nA.x", "The right option is A.x", "\n再\n", " Yes", "?")
    for roles in ("user", "system user", "user assistant", "system user assistant user assistant",
                  "system user assistant user assistant user"):
        start = 0 if roles.startswith("system") else 1
        messages = [{"role": role, "content": text}
                    for role, text in zip(roles.split(), texts[start:], strict=False)]
        assert tokenizer.apply_chat_template(messages) == encode(
            render_messages(messages, family), processor, special)[0]
    stop = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    assert stop == list(special.stop_ids)


class Code:
    """Unpickles into a call."""

    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("content", [{"a": Code()}, ["no", "mapping"], {"a": 1}])
def test_a_bin_file_that_is_no_plain_weights_is_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ToolkitError, match=r"pytorch_model\.bin (cannot be read|is not a plain mapping)"):
        HfFolder(tmp_path)
    assert "must not run" not in capsys.readouterr().out


def test_old_bin_files_are_read_too(tmp_path):
    tensor = torch.randn(6, 4).to(torch.bfloat16)
    torch.save({"a": tensor}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    rows = HfFolder(tmp_path).rows("a", 2, 5)
    assert rows.dtype == BF16 and rows.tobytes() == tensor[2:5].view(torch.int16).numpy().tobytes()


def test_a_bin_file_of_parameters_is_read_as_their_values(tmp_path):
    parameters = {"a": torch.nn.Parameter(torch.randn(6, 4)),
                  "b": torch.nn.Parameter(torch.randn(3).double())}
    torch.save(parameters, tmp_path / "pytorch_model.bin")
    folder = HfFolder(tmp_path)
    for name, parameter in parameters.items():
        assert np.array_equal(folder.rows(name, 1, 3), parameter.detach().numpy()[1:3])
    assert folder.entries["b"].dtype == np.float64
