"""weights.py without torch: names, types, files, and everything it refuses.

That weights mean the same on both sides is shown in test_weights_parity.py.
"""

import copy
import json
import struct
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import yaml
from research_internlm import dtypes, hf_config, hf_folder, lora, tensor_files, weight_names
from research_internlm import recipe as recipes
from research_internlm.dtypes import BF16, Entry
from research_internlm.errors import ToolkitError
from research_internlm.hf_export import export_adapter, export_model
from research_internlm.hf_import import import_model
from research_internlm.merging import merge
from research_internlm.tensor_files import TensorFile, write_tensors
from tests.conftest import assert_user_error, run_script

WEIGHTS = "research_internlm/weights.py"
CONFIG = {
    "type": "InternLMConfig", "hidden_size": 8, "num_layers": 2, "num_heads": 4, "n_kv_heads": 2,
    "seq_length": 16, "intermediate_size": 12, "vocab_size": 20, "rms_norm_eps": 1e-6, "has_bias": True,
    "pet_config": {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 6, "target_modules": ".*wq|.*wv|.*w2"},
}
SHAPE_KEYS = {key: value for key, value in CONFIG.items() if key not in ("pet_config", "seq_length")}
SHAPES = weight_names.parameter_shapes(CONFIG)


def random_tensors(shapes, seed=0, dtype=dtypes.FLAG_TYPES["fp32"]):
    random = np.random.default_rng(seed)
    return {name: dtypes.cast(random.standard_normal(shape).astype(np.float32), dtype)
            for name, shape in shapes.items()}


def write(path, tensors):
    """Writes a checkpoint; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {name: Entry(value.shape, value.dtype) for name, value in tensors.items()},
                  lambda name: [tensors[name]])
    return path


def read(path):
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def lora_tensors(seed=1, rank=2):
    shapes = {}
    for name, (rows, columns) in ((n, s) for n, s in SHAPES.items() if n.endswith(("wq.weight", "wv.weight",
                                                                                 "w2.weight"))):
        a, b = lora.adapter_names(name)
        shapes[a], shapes[b] = (rank, columns), (rows, rank)
    return random_tensors(shapes, seed)


@pytest.fixture
def run(tmp_path):
    """A run's folder with its adapter, and the base it started from."""
    folder = tmp_path / "run"
    folder.mkdir()
    recipes.write_resolved({"model": {"model_config": CONFIG}}, folder / "resolved_config.yaml")
    base = write(tmp_path / "base.ckpt", random_tensors(SHAPES))
    return folder, base, write(folder / "checkpoint_trainable" / "rank_0" / "a.ckpt", lora_tensors())


# Names


@pytest.mark.parametrize("spelling", [weight_names.LLAMA, weight_names.INTERNLM2])
def test_names_go_both_ways(spelling):
    """Every parameter has one place, every place gives its parameters back, and nothing is left over."""
    places = {weight_names.to_hf(name, spelling) for name in SHAPES}
    back = [name for place in places for name in weight_names.from_hf(place, spelling)]
    assert sorted(back) == sorted(SHAPES)
    for name in SHAPES:
        assert name in weight_names.from_hf(weight_names.to_hf(name, spelling), spelling)
    if spelling == weight_names.LLAMA:
        assert len(places) == len(SHAPES)


@pytest.mark.parametrize(("ours", "llama", "internlm2"), [
    # From the index files of internlm-7b and internlm2-7b.
    ("model.tok_embeddings.embedding_weight", "model.embed_tokens.weight", "model.tok_embeddings.weight"),
    ("model.norm_out.weight", "model.norm.weight", "model.norm.weight"),
    ("lm_head.weight", "lm_head.weight", "output.weight"),
    ("model.layers.31.attention.wv.weight", "model.layers.31.self_attn.v_proj.weight",
     "model.layers.31.attention.wqkv.weight"),
    ("model.layers.3.attention.wo.bias", "model.layers.3.self_attn.o_proj.bias",
     "model.layers.3.attention.wo.bias"),
    ("model.layers.0.feed_forward.w2.weight", "model.layers.0.mlp.down_proj.weight",
     "model.layers.0.feed_forward.w2.weight"),
    ("model.layers.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight",
     "model.layers.0.ffn_norm.weight"),
])
def test_names_are_the_releases(ours, llama, internlm2):
    assert weight_names.to_hf(ours, weight_names.LLAMA) == llama
    assert weight_names.to_hf(ours, weight_names.INTERNLM2) == internlm2


def test_the_fused_wqkv_is_cut_as_internlm2_lays_it_out():
    # 4 heads of 2 rows, 2 key-value heads: q0 q1 k0 v0 | q2 q3 k1 v1
    name = "model.layers.0.attention.w{}.weight"
    rows = {letter: weight_names.source_of(name.format(letter), weight_names.INTERNLM2, CONFIG).rows
            for letter in "qkv"}
    assert rows == {"q": ((0, 4), (8, 12)), "k": ((4, 6), (12, 14)), "v": ((6, 8), (14, 16))}


def test_peft_names():
    a, b = lora.adapter_names("model.layers.5.feed_forward.w1.weight")
    assert weight_names.to_peft(a) == "base_model.model.model.layers.5.mlp.gate_proj.lora_A.weight"
    assert weight_names.to_peft(b) == "base_model.model.model.layers.5.mlp.gate_proj.lora_B.weight"


# Types


def test_bfloat16_rounds_to_nearest_even_and_keeps_what_is_no_number():
    bits = [(0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F808001, 0x3F81), (0x7FFFFFFF, 0x7FC0),
            (0x7F7FFFFF, 0x7F80), (0xFF800000, 0xFF80), (0x80000000, 0x8000)]
    source = np.array([one for one, _ in bits], np.uint32).view(np.float32)
    assert [hex(v) for v in dtypes.cast(source, BF16)["bf16"]] == [hex(expected) for _, expected in bits]


@pytest.mark.parametrize("flag", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_found(flag, value):
    dtype = dtypes.FLAG_TYPES[flag]
    fine = dtypes.cast(np.array([[0.0, -3.5, 1e4]], np.float32), dtype)
    assert dtypes.require_finite(fine, "x") is fine
    with pytest.raises(ToolkitError, match=f"wq would hold NaN or infinite values as {flag}"):
        dtypes.require_finite(dtypes.cast(np.array([1, value], np.float32), dtype), "wq")


# Files


@pytest.mark.model
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("flag", ["fp16", "bf16", "fp32"])
def test_mindspore_reads_what_is_written(tmp_path, monkeypatch, suffix, flag):
    import mindspore

    monkeypatch.setattr(tensor_files, "BLOCK_BYTES", 64)  # several values per tensor in a .ckpt
    tensors = random_tensors(SHAPES, dtype=dtypes.FLAG_TYPES[flag])
    write(tmp_path / "in.safetensors", tensors)
    with TensorFile(tmp_path / "in.safetensors") as file:
        write_tensors(tmp_path / f"x{suffix}", file.entries, lambda name: [
            file.rows(name, *rows) for rows in tensor_files.row_blocks(file.entries[name])])
    loaded = mindspore.load_checkpoint(str(tmp_path / f"x{suffix}"), format=suffix[1:])
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert np.array_equal(loaded[name].astype(mindspore.float32).asnumpy(), dtypes.to_float32(value))
    for name, value in read(tmp_path / f"x{suffix}").items():
        assert value.tobytes() == tensors[name].tobytes()


@pytest.mark.model
def test_what_mindspore_writes_is_read(tmp_path, monkeypatch):
    import mindspore
    from mindspore.train import serialization

    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KB: it cuts real ones at 512 MB
    big = np.arange(3000, dtype=np.float32).reshape(100, 30)
    mindspore.save_checkpoint(
        [{"name": "big.weight", "data": mindspore.Tensor(big)},
         {"name": "step_num", "data": mindspore.Tensor(7, mindspore.int64)}],
        str(tmp_path / "x.ckpt"), crc_check=True)
    with TensorFile(tmp_path / "x.ckpt") as file:
        assert len(file.entries["big.weight"].pieces) > 5
        assert np.array_equal(file.read("big.weight"), big)
        assert np.array_equal(file.rows("big.weight", 17, 93), big[17:93])
        assert file.entries["step_num"].shape == ()


def test_safetensors_are_the_library_s(tmp_path):
    tensors = random_tensors(SHAPES)
    write(tmp_path / "ours.safetensors", tensors)
    save_file(tensors, tmp_path / "theirs.safetensors")
    theirs, ours = load_file(tmp_path / "ours.safetensors"), read(tmp_path / "theirs.safetensors")
    for name, value in tensors.items():
        assert np.array_equal(theirs[name], value) and np.array_equal(ours[name], value)
    header = struct.unpack("<Q", (tmp_path / "ours.safetensors").read_bytes()[:8])[0]
    assert header % 8 == 0


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("keep", [3, 40, 0.5, -1])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    content = write(tmp_path / f"x{suffix}", random_tensors(SHAPES)).read_bytes()
    size = int(len(content) * keep) if 0 < keep < 1 else keep
    (tmp_path / f"cut{suffix}").write_bytes(content[:size])
    with pytest.raises(ToolkitError, match=r"the checkpoint .*cut.* is truncated or no"):
        TensorFile(tmp_path / f"cut{suffix}")


# Merge


def test_merge_adds_the_scaled_product_and_drops_what_is_no_weight(run, tmp_path):
    _, base, adapter = run
    state = {"step_num": np.array([4], np.int32),
             "adam_m." + next(iter(lora_tensors())): np.ones(3, np.float32)}
    base.unlink()
    weights = random_tensors(SHAPES)
    write(base, {**weights, **state})
    facts = merge(base, adapter, tmp_path / "merged.safetensors", overwrite=False)
    merged, matrices = read(tmp_path / "merged.safetensors"), lora_tensors()
    assert merged.keys() == weights.keys()
    for name, value in weights.items():
        a, b = lora.adapter_names(name)
        expected = value
        if a in matrices:  # alpha 6 / rank 2 = 3
            expected = value + 3 * (matrices[b].astype(float) @ matrices[a].astype(float))
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-6)
    counts = facts["counts"]
    assert counts == {"in": len(weights) + 2, "out": len(weights), "changed": 6,
                      "dropped": {"training state": 2, "adapter": 0}}
    manifest = json.loads((tmp_path / "merged.safetensors.manifest.json").read_text())
    assert manifest["scaling"] == 3.0 and set(manifest["inputs"]) == {"base", "adapter"}


@pytest.mark.parametrize("flag", ["fp16", "bf16"])
def test_merge_keeps_the_base_s_type_and_computes_in_float32(run, tmp_path, flag):
    _, base, adapter = run
    weights = random_tensors(SHAPES, dtype=dtypes.FLAG_TYPES[flag])
    base.unlink()
    merge(write(base, weights), adapter, tmp_path / "m.ckpt", overwrite=False)
    name, matrices = "model.layers.1.attention.wq.weight", lora_tensors()
    a, b = lora.adapter_names(name)
    exact = dtypes.to_float32(weights[name]) + np.float32(3) * (matrices[b] @ matrices[a])
    assert read(tmp_path / "m.ckpt")[name].tobytes() == dtypes.cast(exact, dtypes.FLAG_TYPES[flag]).tobytes()


def test_a_full_checkpoint_is_base_and_adapter_both(run, tmp_path):
    folder, base, adapter = run
    full = write(folder / "checkpoint" / "rank_0" / "full.ckpt", {**random_tensors(SHAPES), **lora_tensors()})
    merge(base, adapter, tmp_path / "one.ckpt", False)
    merge(full, full, tmp_path / "two.ckpt", False)
    merge(base, full, tmp_path / "three.ckpt", False)
    one, two, three = (read(tmp_path / f"{name}.ckpt") for name in ("one", "two", "three"))
    for name, value in one.items():
        assert np.array_equal(value, two[name]) and np.array_equal(value, three[name])


def test_merging_twice_is_refused(run, tmp_path):
    folder, base, adapter = run
    merged = tmp_path / "merged.ckpt"
    merge(base, adapter, merged, False)
    with pytest.raises(ToolkitError, match="would apply an adapter twice"):
        merge(merged, adapter, tmp_path / "again.ckpt", False)
    full = write(folder / "checkpoint" / "rank_0" / "full.ckpt", {**random_tensors(SHAPES), **lora_tensors()})
    with pytest.raises(ToolkitError, match=r"6 weights of .*merged.ckpt are not those the adapter"):
        merge(merged, full, tmp_path / "again.ckpt", False)
    assert not (tmp_path / "again.ckpt").exists()


def test_another_base_is_known_by_the_sha256_in_run_json(run, tmp_path):
    folder, base, adapter = run
    (folder / "run.json").write_text(json.dumps({"load_checkpoint_sha256": "0" * 64}))
    with pytest.raises(ToolkitError, match=r"sha256 0{64} \(run.json\), but .*another base"):
        merge(base, adapter, tmp_path / "m.ckpt", False)
    from research_internlm.files import sha256_of

    (folder / "run.json").write_text(json.dumps({"load_checkpoint_sha256": sha256_of(base)}))
    merge(base, adapter, tmp_path / "m.ckpt", False)


@pytest.mark.parametrize(("change", "message"), [
    ({"lora_rank": 4}, r"of another shape: .*mindpet_delta_lora_a is \(2, 8\), expected \(4, 8\).*rank 4"),
    ({"target_modules": ".*wq|.*wv"}, r"4 extra: .*w2.mindpet_delta_lora_a"),
    ({"target_modules": ".*wq|.*wv|.*w2|.*wo"}, r"4 missing: .*wo.mindpet_delta_lora_a"),
])
def test_an_adapter_of_another_rank_or_other_targets_is_refused(run, tmp_path, change, message):
    folder, base, adapter = run
    config = copy.deepcopy(CONFIG)
    config["pet_config"] |= change
    recipes.write_resolved({"model": {"model_config": config}}, folder / "resolved_config.yaml")
    with pytest.raises(ToolkitError, match=message):
        merge(base, adapter, tmp_path / "m.ckpt", False)


def test_a_base_of_another_shape_is_refused(run, tmp_path):
    _, _, adapter = run
    shapes = weight_names.parameter_shapes({**CONFIG, "vocab_size": 9})
    other = write(tmp_path / "other.ckpt", random_tensors(shapes))
    with pytest.raises(ToolkitError, match=r"the base .*2 of another shape.*\(9, 8\), expected \(20, 8\)"):
        merge(other, adapter, tmp_path / "m.ckpt", False)


def test_an_adapter_that_changes_nothing_is_refused(run, tmp_path):
    _, base, adapter = run
    adapter.unlink()
    write(adapter, {name: value * (not name.endswith("_b")) for name, value in lora_tensors().items()})
    with pytest.raises(ToolkitError, match="changes no weight"):
        merge(base, adapter, tmp_path / "m.ckpt", False)
    assert not list(tmp_path.glob("m.ckpt*")) and not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize(("matrix", "value"), [("_a", np.nan), ("_b", np.inf), ("_b", 1e38)])
def test_a_result_that_is_not_finite_is_refused(run, tmp_path, matrix, value):
    _, base, adapter = run
    tensors = lora_tensors()
    name = next(name for name in tensors if name.endswith(matrix))
    tensors[name][0, 0] = value
    adapter.unlink()
    write(adapter, tensors)
    base.unlink()
    write(base, random_tensors(SHAPES, dtype=np.dtype(np.float16)))
    with pytest.raises(ToolkitError, match=r"not finite|hold NaN or infinite"):
        merge(base, adapter, tmp_path / "m.ckpt", False)
    assert not (tmp_path / "m.ckpt").exists()


def test_an_adapter_away_from_its_run_is_told_where_the_config_was_looked_for(run, tmp_path):
    _, base, _ = run
    lonely = write(tmp_path / "else" / "a.ckpt", lora_tensors())
    done = run_script(WEIGHTS, "merge", "--base", base, "--adapter", lonely, "--output", tmp_path / "m.ckpt",
                      check=False)
    assert_user_error(done, "resolved_config.yaml", str(tmp_path / "else"), "copy the run's")


# From and to Hugging Face


def hf_release(folder, config=CONFIG, **tensors):
    """A model folder of one safetensors file, as internlm-7b's config names things."""
    folder.mkdir()
    own = hf_config.from_model_config(config, "fp32")
    own |= {"model_type": "internlm", "bias": own.pop("attention_bias")}
    (folder / "config.json").write_text(json.dumps(own))
    values = {weight_names.to_hf(name): value for name, value in random_tensors(SHAPES).items()} | tensors
    kept = {name: value for name, value in values.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    return folder


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


def test_a_cast_that_overflows_names_the_tensor(tmp_path):
    folder = hf_release(tmp_path / "hf", **{"model.norm.weight": np.full(8, 7e4, np.float32)})
    with pytest.raises(ToolkitError, match=r"model\.norm\.weight would hold NaN or infinite values as fp16"):
        import_model(folder, tmp_path / "x.ckpt", "fp16", False)


def test_a_tied_head_becomes_a_copy_of_the_embedding(tmp_path):
    folder = hf_release(tmp_path / "hf", **{"lm_head.weight": None})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    import_model(folder, tmp_path / "x.ckpt", None, False)
    tensors = read(tmp_path / "x.ckpt")
    assert np.array_equal(tensors["lm_head.weight"], tensors["model.tok_embeddings.embedding_weight"])


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "qwen2"}, "model_type 'qwen2'; this toolkit knows internlm, llama, internlm2"),
    ({"hidden_act": "gelu", "rope_scaling": {"type": "linear", "factor": 2}},
     "hidden_act gelu.*rope_scaling linear"),
    ({"head_dim": 16}, "head_dim 16 x 4 heads is not hidden_size 8"),
    ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide 4 heads"),
])
def test_another_structure_is_refused(change, message):
    config = {**hf_config.from_model_config(CONFIG, "fp32"), **change}
    with pytest.raises(ToolkitError, match=message):
        hf_config.to_model_config(config)


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


@pytest.mark.parametrize(("index", "message"), [
    ({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}},
     "the shard .*model-00002-of-00002.safetensors does not exist; model.safetensors.index.json names it"),
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


@pytest.mark.parametrize("arguments", [
    "from-hf {0}/hf {0}/base.ckpt",
    "to-hf {0}/base.ckpt {0}/base.ckpt --config {0}/run/resolved_config.yaml",
    "merge --base {0}/base.ckpt --adapter {0}/run/checkpoint_trainable/rank_0/a.ckpt --output {0}/there.ckpt",
    "to-peft {0}/run/checkpoint_trainable/rank_0/a.ckpt {0}/run",
])
def test_existing_outputs_are_not_replaced(run, tmp_path, arguments):
    (tmp_path / "there.ckpt").touch()
    done = run_script(WEIGHTS, *arguments.format(tmp_path).split(), check=False)
    assert_user_error(done, "exists already; pass --overwrite")


def test_the_suffix_and_the_format_must_agree(tmp_path):
    done = run_script(WEIGHTS, "from-hf", tmp_path, tmp_path / "x.ckpt", "--format", "safetensors",
                      check=False)
    assert_user_error(done, "--format safetensors asks for a file that ends in .safetensors")
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
