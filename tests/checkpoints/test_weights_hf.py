"""weights.py from-hf, to-hf and to-peft without torch: what they write and everything they refuse."""

import json
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from research_internlm import recipes
from research_internlm.checkpoints import dtypes, hf_config, hf_folder, weight_names
from research_internlm.checkpoints.dtypes import BF16
from research_internlm.checkpoints.hf_export import export_adapter, export_model
from research_internlm.checkpoints.hf_import import import_model
from research_internlm.checkpoints.merging import merge
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_manifest
from tests.helpers import weight_files
from tests.helpers.commands import ROOT, assert_user_error, run_script
from tests.helpers.weight_files import (
    CONFIG,
    SHAPE_KEYS,
    SHAPES,
    WEIGHTS,
    hf_release,
    lora_tensors,
    random_tensors,
    read,
    write,
)

run = weight_files.run  # fixture


def test_from_hf_reports_all_misfits_at_once(tmp_path):
    folder = hf_release(tmp_path / "hf", **{
        "lm_head.weight": None, "model.layers.7.mlp.up_proj.weight": np.ones((2, 2), np.float32),
        "model.norm.weight": np.ones(3, np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)})
    done = run_script(WEIGHTS, "from-hf", folder, tmp_path / "x.ckpt", check=False)
    assert_user_error(done, "1 missing: lm_head.weight", "1 extra: model.layers.7.mlp.up_proj.weight",
                      "1 of another shape: model.norm.weight is (3,), expected (8,)")
    assert "inv_freq" not in done.stderr and not (tmp_path / "x.ckpt").exists()


def test_from_hf_leaves_buffers_out_and_counts_them(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = hf_release(tmp_path / "hf", **{name: np.ones(4, np.float32)})
    facts = import_model(folder, tmp_path / "x.ckpt", "bf16", False)
    assert facts["counts"] == {"in": len(SHAPES) + 1, "out": len(SHAPES), "dropped": {"buffers": 1}}
    assert facts["dropped"] == [name]
    expected = random_tensors(SHAPES)
    for name, value in read(tmp_path / "x.ckpt").items():
        assert value.tobytes() == dtypes.cast(expected[name], BF16).tobytes()
    assert facts["model_config"] == {**SHAPE_KEYS, "theta": 10000.0, "max_position_embedding": 16}


def test_casts_that_overflow_name_every_tensor(tmp_path):
    folder = hf_release(tmp_path / "hf", **{"model.norm.weight": np.full(8, 7e4, np.float32),
                                            "lm_head.weight": np.full((20, 8), -7e4, np.float32)})
    with pytest.raises(ToolkitError) as caught:
        import_model(folder, tmp_path / "x.ckpt", "fp16", False)
    for word in ("2 tensors", "model.norm.weight (fp16)", "lm_head.weight (fp16)", "use another --dtype"):
        assert word in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_float64_is_converted_when_a_type_is_asked_for(tmp_path):
    wide = np.linspace(-1, 1, 8)
    folder = hf_release(tmp_path / "hf", **{"model.norm.weight": wide})
    with pytest.raises(ToolkitError, match=r"1 tensors are float64 \(model.norm.weight\).*with --dtype"):
        import_model(folder, tmp_path / "x.ckpt", None, False)
    import_model(folder, tmp_path / "x.ckpt", "fp32", False)
    assert np.array_equal(read(tmp_path / "x.ckpt")["model.norm_out.weight"], wide.astype(np.float32))
    folder = hf_release(tmp_path / "huge", **{"model.norm.weight": wide * 1e300})
    with pytest.raises(ToolkitError, match=r"model.norm.weight \(fp32\)"):
        import_model(folder, tmp_path / "y.ckpt", "fp32", False)


def test_quantised_weights_are_refused(tmp_path):
    folder = hf_release(tmp_path / "hf", **{"model.norm.weight": np.ones(8, np.int8)})
    with pytest.raises(ToolkitError, match=r"1 tensors are not floating-point numbers \(model.norm.weight\)"):
        import_model(folder, tmp_path / "x.ckpt", "fp32", False)


@pytest.mark.parametrize(("settings", "tensors", "words"), [
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {}, r"\(quantization_config .*: awq\)"),
    ({}, {"model.layers.0.self_attn.q_proj.qweight": np.ones((2, 2), np.int32),
          "model.layers.0.self_attn.q_proj.weight": None}, r"\(1 tensors such as .*qweight\)"),
])
def test_quantised_releases_are_named_before_their_names_are_compared(tmp_path, settings, tensors, words):
    folder = hf_release(tmp_path / "hf", **tensors)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(ToolkitError, match=f"are quantised {words}.* download the release that is not"):
        import_model(folder, tmp_path / "x.ckpt", None, False)


@pytest.mark.parametrize("whole", [None, [], ["embed_tokens", "lm_head"]])
def test_an_adapter_of_peft_is_named_as_one(run, tmp_path, whole):
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "modules_to_save": whole}))
    name = "base_model.model.model.layers.0.attention.wo.lora_A.weight"
    save_file({name: np.ones((4, 8), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"pickled")
    words = "adapter of PEFT or XTuner" + (" with modules_to_save embed_tokens, lm_head;" if whole else ";")
    with pytest.raises(ToolkitError, match=words):
        import_model(folder, tmp_path / "x.ckpt", None, False)
    advice = "merge this one with PEFT" if whole else "convert it with weights.py from-peft"
    for file in ("adapter_model.safetensors", "adapter_model.bin"):
        with pytest.raises(ToolkitError, match=f"{words} this toolkit's merge takes adapters .*: {advice}"):
            merge(run[1], folder / file, tmp_path / "m.ckpt", False)


def test_all_git_lfs_pointers_of_a_release_are_named_at_once(tmp_path):
    folder = hf_release(tmp_path / "hf")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "tokenizer.model").write_text(pointer)  # alone it is in nobody's way
    import_model(folder, tmp_path / "x.ckpt", None, False)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        (folder / name).write_text(pointer)
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ToolkitError, match=f"^{names[0]}, {names[1]}, tokenizer.model in .* are Git LFS "):
        import_model(folder, tmp_path / "y.ckpt", None, False)


def test_a_tied_head_becomes_a_copy_of_the_embedding(tmp_path):
    folder = hf_release(tmp_path / "hf", **{"lm_head.weight": None})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    import_model(folder, tmp_path / "x.ckpt", None, False)
    tensors = read(tmp_path / "x.ckpt")
    assert np.array_equal(tensors["lm_head.weight"], tensors["model.tok_embeddings.embedding_weight"])


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "qwen2"}, "model_type 'qwen2'; this toolkit knows internlm, internlm2, internlm3, llama"),
    ({"hidden_act": "gelu", "rope_scaling": {"type": "linear", "factor": 2}},
     "hidden_act gelu.*rope_scaling linear"),
    ({"head_dim": 16}, "head_dim 16 x 4 heads is not hidden_size 8"),
    ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide 4 heads"),
    ({"num_attention_heads": 3, "num_key_value_heads": 3}, "hidden_size 8 is not divided by 3 heads"),
    ({"num_attention_heads": 0, "vocab_size": "20", "hidden_size": None, "rms_norm_eps": "1e-5",
      "attention_bias": "yes", "rope_scaling": "dynamic"},
     "hidden_size is missing.*num_attention_heads is 0, not a pos.*rms_norm_eps is '1e-5'"
     ".*rope_scaling is 'dynamic', not a mapping"),
    ({"rope_scaling": {"type": "default", "rope_theta": "1e6"}}, "rope_theta is '1e6', not a pos"),
    ({"model_type": ["llama"]}, "model_type "),
])
def test_another_structure_is_refused(change, message):
    config = {**hf_config.from_model_config(CONFIG, "fp32"), **change}
    with pytest.raises(ToolkitError, match=message):
        hf_config.to_model_config(config)


def test_a_config_json_that_is_no_mapping_is_refused(tmp_path):
    folder = hf_release(tmp_path / "hf")
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ToolkitError, match=r"config\.json holds a list, not a mapping"):
        import_model(folder, tmp_path / "x.ckpt", None, False)


@pytest.mark.parametrize("stated", [
    {"rope_scaling": {"type": "dynamic", "factor": 2.5}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.5}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 7e6}, "rope_theta": None}])
def test_a_rotary_scaling_beyond_the_longest_position_goes_through(stated):
    config = {**hf_config.from_model_config(CONFIG, "fp32"), "rope_theta": 7e6, **stated}
    found = hf_config.to_model_config(config)
    assert (found["rope_scaling"], found["theta"]) == ({"rope_type": "dynamic", "factor": 2.5}, 7e6)
    assert not hf_config.left_out(config)
    again = hf_config.from_model_config({**CONFIG, **found}, "fp32")
    assert again["rope_scaling"] == {"type": "dynamic", "rope_type": "dynamic", "factor": 2.5}
    assert again["max_position_embeddings"] == 16
    with pytest.raises(ToolkitError, match=r"length is 17, but beyond max_position_embedding 16 .*most 16"):
        hf_config.check_model_config({**CONFIG, **found, "seq_length": 17}, "x.yaml")
    hf_config.check_model_config({**CONFIG, **found}, "x.yaml")


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 2.0}, {"rope_type": "dynamic"}])
def test_another_scaling_of_a_recipe_is_not_exported(scaling):
    with pytest.raises(ToolkitError, match="an export carries the releases' own"):
        hf_config.from_model_config({**CONFIG, "rope_scaling": scaling}, "fp32")


def test_a_dynamic_scaling_without_a_factor_is_said_to_be_left_out():
    """InternLM-7B's own config.json has one."""
    config = {**hf_config.from_model_config(CONFIG, "fp32"), "rotary": {"base": 10000, "type": "dynamic"}}
    assert "rope_scaling" not in hf_config.to_model_config(config)
    assert "is left out: it changes the angles only beyond 16 tokens" in hf_config.left_out(config)[0]


def test_a_tiny_internlm3_goes_in_and_out_bit_by_bit(tmp_path):
    """Its tensors have Llama's names, so the export has the release's tensors."""
    own = {**CONFIG, "type": "InternLM3Config", "has_bias": False}
    folder = hf_release(tmp_path / "hf", own, weight_names.parameter_shapes(own))
    config = json.loads((folder / "config.json").read_text())
    del config["bias"]
    config |= {"model_type": "internlm3", "qkv_bias": False, "bias": False, "head_dim": 2,
               "rope_scaling": {"rope_type": "dynamic", "factor": 6.0}}
    (folder / "config.json").write_text(json.dumps(config))
    found = import_model(folder, tmp_path / "x.ckpt", None, False)["model_config"]
    assert (found["type"], found["has_bias"]) == ("InternLM3Config", False)
    export_model(tmp_path / "x.ckpt", tmp_path / "out", {**found, "seq_length": 16}, None, False)
    expected, exported = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    assert exported.keys() == expected.keys()
    assert all(np.array_equal(exported[name], value) for name, value in expected.items())
    assert json.loads((tmp_path / "out/config.json").read_text())["rope_scaling"]["factor"] == 6.0


def test_what_transformers_5_writes_is_read(tmp_path):
    """`dtype` and `rope_parameters` stand for `torch_dtype` and `rope_theta`; the types are the tensors'."""
    folder = hf_release(tmp_path / "hf", **{"model.norm.weight": np.ones(8, np.float16)})
    config = json.loads((folder / "config.json").read_text())
    for old in ("torch_dtype", "rope_theta"):
        del config[old]
    config |= {"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    (folder / "config.json").write_text(json.dumps(config))
    assert import_model(folder, tmp_path / "x.ckpt", None, False)["model_config"]["theta"] == 5e5
    assert read(tmp_path / "x.ckpt")["model.norm_out.weight"].dtype == np.float16


def internlm3_config(**more):
    """config.json of internlm3-8b-instruct, notes of the release."""
    return {"architectures": ["InternLM3ForCausalLM"], "model_type": "internlm3", "hidden_size": 4096,
            "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128,
            "intermediate_size": 10240, "vocab_size": 128512, "max_position_embeddings": 32768,
            "rope_theta": 50000000, "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "bias": False,
            "qkv_bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **more}


def test_internlm3_s_config_is_read_and_its_overlay_says_the_same():
    found = hf_config.to_model_config(internlm3_config())
    laid = recipes.model_config(recipes.resolve(ROOT / "yaml/lora_finetune.yaml",
                                                [ROOT / "yaml/overlays/internlm3_8b.yaml"]))
    assert {key: laid[key] for key in found} == found
    with pytest.raises(ToolkitError, match=r"bias or qkv_bias True \(no InternLM3 release has biases"):
        hf_config.to_model_config(internlm3_config(bias=True))


def test_config_goes_both_ways():
    there = hf_config.from_model_config(CONFIG, "fp16")
    back = hf_config.to_model_config(there)
    assert back == {**SHAPE_KEYS, "theta": 10000.0, "max_position_embedding": 16}


@pytest.mark.parametrize(("rotary", "theta"), [
    ({"base": 10000, "type": "dynamic"}, 10000), ({"base": 50000, "type": "origin"}, 50000)])
def test_the_rotary_entry_of_internlm_s_own_config_is_read(rotary, theta):
    config = hf_config.from_model_config(CONFIG, "fp32")
    own = {key: value for key, value in config.items() if key not in ("rope_theta", "attention_bias")}
    assert hf_config.to_model_config({**own, "model_type": "internlm", "bias": True,
                                      "rotary": rotary})["theta"] == theta


def test_what_config_json_leaves_out_is_the_release_s_default_and_no_recipe_s():
    config = {**hf_config.from_model_config(CONFIG, "fp32"), "model_type": "internlm2", "bias": False}
    del config["rms_norm_eps"], config["rope_theta"], config["attention_bias"]
    found = hf_config.to_model_config(config)
    assert (found["rms_norm_eps"], found["theta"]) == (1e-6, 10000.0)


@pytest.mark.parametrize("rope", [
    {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 777.0}},
    {"rotary": {"base": 777.0, "type": "origin"}}])
def test_a_rotary_base_stated_twice_must_be_the_same(rope):
    config = hf_config.from_model_config(CONFIG, "fp32")
    with pytest.raises(ToolkitError, match=r"stated twice .*rope_theta 10000.*777"):
        hf_config.to_model_config({**config, **rope})
    assert hf_config.to_model_config({**config, **rope, "rope_theta": 777})["theta"] == 777


@pytest.mark.parametrize(("index", "message"), [
    ({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}},
     "the shard .*model-00002-of-00002.safetensors does not exist; model.safetensors.index.json names 2 sh"),
    ({"weight_map": {"a": "x.safetensors", "b": "y.safetensors", "c": "z.safetensors"}},
     "x.safetensors does not exist; .*y.safetensors does not exist; .*z.safetensors does not exist"),
    ({"weight_map": {"a": 5, "b": "../b.safetensors"}}, r"has no file for 2 tensors \(a: 5, b: '../b.safe"),
    ({"weight_map": {}}, "has no weight_map"),
    ([1], "has no weight_map"),
    ({"metadata": {}}, "has no weight_map"),
    (None, "1 shards such as model-00001-of-00002.safetensors but no model.safetensors.index.json"),
])
def test_incomplete_downloads_are_refused(tmp_path, index, message):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ToolkitError, match=message):
        hf_folder.shards_of(tmp_path)


def test_to_hf_refuses_an_unmerged_adapter_and_another_config(run, tmp_path):
    folder, base, _ = run
    full = write(folder / "full.ckpt", {**random_tensors(SHAPES), **lora_tensors()})
    with pytest.raises(ToolkitError, match=r"holds 12 LoRA matrices; fold them in first"):
        export_model(full, tmp_path / "out", CONFIG, None, False)
    with pytest.raises(ToolkitError, match=r"13 extra: model.layers.1.attention_norm.weight"):
        export_model(base, tmp_path / "out", {**CONFIG, "num_layers": 1}, None, False)
    assert not (tmp_path / "out").exists()


def test_to_peft_states_rank_alpha_and_targets(run, tmp_path):
    _, _, adapter = run
    export_adapter(adapter, tmp_path / "peft", False)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 6, "LORA")
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert len(load_file(tmp_path / "peft" / "adapter_model.safetensors")) == 12


@pytest.mark.parametrize(("arguments", "message"), [
    ("from-hf {0}/hf {0}/there.ckpt", "exists already; pass --overwrite"),
    ("to-hf {0}/base.ckpt {0}/there --config {0}/run/resolved_config.yaml",
     "exists already; pass --overwrite"),
    ("to-hf {0}/base.ckpt {0}/base.ckpt --config {0}/run/resolved_config.yaml", "is also the input"),
    ("merge --base {0}/base.ckpt --adapter {0}/run/checkpoint_trainable/rank_0/a.ckpt --output "
     "{0}/there.ckpt", "exists already; pass --overwrite"),
    ("to-peft {0}/run/checkpoint_trainable/rank_0/a.ckpt {0}/run", "is also the input"),
])
def test_existing_outputs_are_not_replaced(run, tmp_path, arguments, message):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there.ckpt", tmp_path / "there/model.safetensors"):
        path.touch()
        write_manifest(path)
    done = run_script(WEIGHTS, *arguments.format(tmp_path).split(), check=False)
    assert_user_error(done, message)


def test_the_suffix_and_the_format_must_agree(tmp_path):
    done = run_script(WEIGHTS, "from-hf", tmp_path, tmp_path / "x.ckpt", "--format", "safetensors",
                      check=False)
    assert_user_error(done, "--format safetensors asks for another format than the name")
    with pytest.raises(ToolkitError, match="ends neither in"):
        import_model(tmp_path, tmp_path / "x.bin", None, False)


def test_the_printed_model_config_is_yaml_for_a_recipe(tmp_path):
    done = run_script(WEIGHTS, "from-hf", hf_release(tmp_path / "hf"), tmp_path / "x.ckpt")
    line = next(line for line in done.stdout.splitlines() if line.startswith("model_config: "))
    stated = {**SHAPE_KEYS, "theta": 10000.0, "max_position_embedding": 16}
    assert yaml.safe_load(line) == {"model_config": stated}


def test_a_bin_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ToolkitError, match=r"torch is not installed; .*pip install -e '\.\[hf\]'"):
        hf_folder.HfFolder(tmp_path)


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_the_format_decides_under_a_name_without_suffix(tmp_path, form):
    done = run_script(WEIGHTS, "from-hf", hf_release(tmp_path / "hf"), tmp_path / "OUT", "--format", form)
    assert f"only under a name that ends in .{form}" in done.stdout
    import_model(tmp_path / "hf", tmp_path / f"named.{form}", None, False)
    assert (tmp_path / "OUT").read_bytes() == (tmp_path / f"named.{form}").read_bytes()


@pytest.mark.parametrize("name", ["lora_finetune.yaml", "lora_finetune_packed.yaml", "predict_mmlu.yaml",
                                  "predict_eval_squad.yaml"])
def test_exports_state_the_release_s_length_and_not_the_training_s(name):
    recipe = recipes.model_config(recipes.resolve(ROOT / "yaml" / name))
    assert hf_config.from_model_config(recipe, "fp16")["max_position_embeddings"] == 2048
    laid = recipes.resolve(ROOT / "yaml" / name, [ROOT / "yaml" / "overlays" / "internlm2_7b.yaml"])
    assert hf_config.from_model_config(recipes.model_config(laid), "fp16")["max_position_embeddings"] == 32768
