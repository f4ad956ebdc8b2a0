"""weights.py from-peft: names, the cut of a fused wqkv, scaling, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from research_internlm.checkpoints import hf_config
from research_internlm.checkpoints.hf_export import export_adapter
from research_internlm.checkpoints.hf_import import import_model
from research_internlm.checkpoints.merging import merge
from research_internlm.checkpoints.peft_import import import_adapter
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest
from tests.helpers import weight_files
from tests.helpers.commands import assert_user_error, run_script
from tests.helpers.weight_files import CONFIG, WEIGHTS, hf_release, lora_tensors, read

run = weight_files.run  # fixture

# 4 heads of 2 rows over 2 key-value heads: wqkv is q0 q1 k0 v0 q2 q3 k1 v1.
HIDDEN, RANK, HEAD = 8, 2, 2
QKV_ROWS = {"wq": [0, 1, 2, 3, 8, 9, 10, 11], "wk": [4, 5, 12, 13], "wv": [6, 7, 14, 15]}
PREFIX = "base_model.model.model.layers.0"
INTERNLM2_SHAPES = {
    "model.tok_embeddings.weight": (20, 8), "model.norm.weight": (8,), "output.weight": (20, 8),
    **{f"model.layers.0.{name}.weight": shape for name, shape in {
        "attention.wqkv": (16, 8), "attention.wo": (8, 8), "attention_norm": (8,), "ffn_norm": (8,),
        "feed_forward.w1": (12, 8), "feed_forward.w2": (8, 12), "feed_forward.w3": (12, 8)}.items()},
}


@pytest.fixture
def internlm2(tmp_path):
    """A converted one-layer InternLM2, its release's tensors, and a folder for the adapter."""
    release = tmp_path / "release"
    release.mkdir()
    config = hf_config.from_model_config({**CONFIG, "num_layers": 1, "has_bias": False}, "fp32")
    config |= {"model_type": "internlm2", "bias": config.pop("attention_bias")}
    (release / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape).astype(np.float32)
               for name, shape in INTERNLM2_SHAPES.items()}
    save_file(tensors, release / "model.safetensors")
    import_model(release, tmp_path / "base.ckpt", None, False)
    return tmp_path, tmp_path / "base.ckpt", tensors


def adapter_folder(folder, tensors, **settings):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "bias": "none", "modules_to_save": None,
         "target_modules": ["wqkv", "wo"]} | settings))
    return folder


def pair(cell, rows, columns, seed=1):
    random = np.random.default_rng(seed)
    return {f"{PREFIX}.{cell}.lora_A.weight": random.standard_normal((RANK, columns)).astype(np.float32),
            f"{PREFIX}.{cell}.lora_B.weight": random.standard_normal((rows, RANK)).astype(np.float32)}


@pytest.mark.parametrize(("settings", "scaling"), [({}, 3.0), ({"use_rslora": True}, 6 / 2 ** 0.5)])
def test_a_fused_wqkv_is_cut_as_the_weight_is(internlm2, settings, scaling):
    place, base, tensors = internlm2
    lora = pair("attention.wqkv", 16, HIDDEN) | pair("attention.wo", 8, HIDDEN, 2)
    facts = import_adapter(adapter_folder(place / "peft", lora, **settings), place / "out", base, False)
    assert facts["counts"] == {"in": 4, "out": 8, "dropped": {}}
    merge(base, place / "out" / "adapter.safetensors", place / "merged.ckpt", False)
    merged = read(place / "merged.ckpt")
    for cell in ("attention.wqkv", "attention.wo"):
        whole = tensors[f"model.layers.0.{cell}.weight"] + scaling * (
            lora[f"{PREFIX}.{cell}.lora_B.weight"] @ lora[f"{PREFIX}.{cell}.lora_A.weight"])
        if cell == "attention.wo":
            assert np.allclose(merged["model.layers.0.attention.wo.weight"], whole, atol=1e-5)
        for name, rows in QKV_ROWS.items() if cell == "attention.wqkv" else ():
            assert np.allclose(merged[f"model.layers.0.attention.{name}.weight"], whole[rows], atol=1e-5)
    kept = merged["model.layers.0.feed_forward.w1.weight"]
    assert np.array_equal(kept, tensors["model.layers.0.feed_forward.w1.weight"])


def test_another_base_is_refused_when_merging(internlm2):
    place, base, tensors = internlm2
    folder = adapter_folder(place / "peft", pair("attention.wo", 8, HIDDEN))
    import_adapter(folder, place / "out", base, False)
    tensors["output.weight"][0, 0] += 1
    save_file(tensors, place / "release" / "model.safetensors")
    import_model(place / "release", place / "other.ckpt", None, False)
    with pytest.raises(ToolkitError, match="started from a file with sha256"):
        merge(place / "other.ckpt", place / "out" / "adapter.safetensors", place / "m.ckpt", False)


def test_an_exported_adapter_comes_back_bit_by_bit(run, tmp_path):
    _, _, adapter = run
    export_adapter(adapter, tmp_path / "peft", False, "some/base")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"
    import_model(hf_release(tmp_path / "hf"), tmp_path / "there.ckpt", None, False)
    import_adapter(tmp_path / "peft", tmp_path / "out", tmp_path / "there.ckpt", False)
    found = read(tmp_path / "out" / "adapter.safetensors")
    assert found.keys() == lora_tensors().keys()
    assert all(np.array_equal(found[name], value) for name, value in lora_tensors().items())
    assert read_manifest(tmp_path / "out" / "adapter.safetensors")["scaling"] == 3.0


@pytest.mark.parametrize(("settings", "words"), [
    ({"modules_to_save": ["embed_tokens", "lm_head"]}, r"modules_to_save embed_tokens, lm_head .*unload"),
    ({"use_dora": True, "bias": "all"}, r"use_dora True; bias all .*merge_and_unload"),
    ({"rank_pattern": {"wo": 4}, "alpha_pattern": {"wo": 1}}, "rank_pattern .*; alpha_pattern"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights pissa_niter_16 .it changes the base"),
    ({"peft_type": "LOHA"}, "is of the type LOHA; from-peft converts LORA adapters"),
    ({"r": "8"}, "has r '8' and lora_alpha 6; r must be a whole number"),
    ({"r": 3}, r"2 of another shape: .*lora_A.weight is \(2, 8\), expected \(3, 8\)"),
])
def test_what_an_adapter_of_ours_cannot_hold_is_refused_by_name(internlm2, settings, words):
    place, base, _ = internlm2
    folder = adapter_folder(place / "peft", pair("attention.wo", 8, HIDDEN), **settings)
    with pytest.raises(ToolkitError, match=words):
        import_adapter(folder, place / "out", base, False)
    assert not (place / "out").exists()


@pytest.mark.parametrize(("tensors", "words"), [
    ({"base_model.model.output.lora_A.weight": np.ones((2, 8), np.float32)},
     "1 extra: base_model.model.output.lora_A.weight; .*only linear layers"),
    ({f"{PREFIX}.attention_norm.lora_A.weight": np.ones((2, 8), np.float32)}, "1 extra: "),
    ({f"{PREFIX}.self_attn.q_proj.lora_A.weight": np.ones((2, 8), np.float32)}, "names of two models"),
    ({f"{PREFIX}.feed_forward.w1.lora_B.weight": np.ones((12, 2), np.float32)},
     "1 missing: model.layers.0.feed_forward.w1.mindpet_delta_lora_a"),
    ({f"{PREFIX}.attention.wo.lora_A.weight": np.ones((2, 8), np.int8)}, "are not fp16, bf16 or fp32"),
    ({f"{PREFIX}.attention.wo.lora_A.weight": np.full((2, 8), np.nan, np.float32)}, "NaN or infinite"),
])
def test_tensors_that_are_no_adapter_of_the_base_are_refused(internlm2, tensors, words):
    place, base, _ = internlm2
    folder = adapter_folder(place / "peft", pair("attention.wo", 8, HIDDEN) | tensors)
    with pytest.raises(ToolkitError, match=words):
        import_adapter(folder, place / "out", base, False)


def test_a_base_without_its_manifest_and_pointers_are_said(internlm2):
    place, base, _ = internlm2
    folder = adapter_folder(place / "peft", pair("attention.wo", 8, HIDDEN))
    base.with_name("base.ckpt.manifest.json").rename(place / "kept")
    done = run_script(WEIGHTS, "from-peft", folder, place / "out", "--base", base, check=False)
    assert_user_error(done, "nothing beside", "as weights.py from-hf wrote it")
    (place / "kept").rename(place / "base.ckpt.manifest.json")
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ToolkitError, match=r"adapter_model.safetensors in .* are Git LFS pointers"):
        import_adapter(folder, place / "out", base, False)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ToolkitError, match=r"neither adapter_model\*.safetensors nor adapter_model\*.bin"):
        import_adapter(folder, place / "out", base, False)
