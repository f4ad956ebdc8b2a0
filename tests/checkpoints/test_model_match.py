"""Weights are the model's, by name, shape and record, before anything is built on them."""

import pytest

from research_internlm.checkpoints import weight_names
from research_internlm.checkpoints.hf_import import import_model
from research_internlm.checkpoints.model_match import (
    require_recorded_config,
    require_weights,
    weights_problems,
)
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_manifest
from tests.helpers.weight_files import CONFIG, SHAPES, hf_release, lora_tensors, random_tensors, write

STATE = {"adam_m.model.layers.0.attention.wq.mindpet_delta_lora_a": (2, 8), "step_num": (1,)}


def problems(path, **changes):
    return list(weights_problems(path, {**CONFIG, **changes}))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_the_model_s_weights_with_an_adapter_and_its_state(tmp_path, suffix):
    path = write(tmp_path / f"base.{suffix}", {**random_tensors({**SHAPES, **STATE}), **lora_tensors()})
    assert problems(path) == []
    folder = tmp_path / "checkpoint"
    for rank in (0, 1):
        write(folder / f"rank_{rank}/a.{suffix}", random_tensors(SHAPES))
    assert problems(folder) == []


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("change, words", [
    (lambda t: t.pop("model.layers.1.feed_forward.w2.weight"),
     ("1 missing: model.layers.1.feed_forward.w2.weight",)),
    (lambda t: t.update({"model.layers.2.ffn_norm.weight": t["model.layers.1.ffn_norm.weight"]}),
     ("1 extra: model.layers.2.ffn_norm.weight",)),
    (lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:-1]}),
     ("1 of another shape: lm_head.weight is (19, 8), expected (20, 8)",)),
    (lambda t: [t.update({weight_names.to_hf(name): t.pop(name)}) for name in list(t)],
     ("missing", "the names are Hugging Face's", "weights.py from-hf HF_DIR base.ckpt")),
    (lambda t: [t.update({f"base_model.model.{name}": t.pop(name)}) for name in list(t)], ("PEFT adapter",)),
    (lambda t: t.update({"model.layers.0.attention.wq.qweight": t["lm_head.weight"]}), ("quantised",)),
    (lambda t: (t.clear(), t.update(lora_tensors())), ("an adapter only",)),
])
def test_weights_of_another_model(tmp_path, suffix, change, words):
    tensors = random_tensors(SHAPES)
    change(tensors)
    [problem] = problems(write(tmp_path / f"base.{suffix}", tensors))
    for word in words:
        assert word in problem


def test_a_folder_of_the_release_names_the_conversion(tmp_path):
    [problem] = problems(hf_release(tmp_path / "hf"))
    assert f"weights.py from-hf {tmp_path / 'hf'} base.ckpt" in problem


@pytest.mark.parametrize("make, words", [
    (lambda folder: None, "does not exist"),
    (lambda folder: folder.mkdir(), r"holds no rank_N/*.ckpt"),
    (lambda folder: (folder / "rank_0").mkdir(parents=True), r"holds no rank_N/*.ckpt"),
    (lambda folder: folder.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    (lambda folder: folder.write_bytes(b"x" * 100), "is truncated, damaged or"),
])
def test_no_weights(tmp_path, make, words):
    make(tmp_path / "weights")
    [problem] = problems(tmp_path / "weights")
    assert words in problem


def test_every_rank_of_a_folder_is_looked_at(tmp_path):
    write(tmp_path / "rank_0/a.ckpt", random_tensors(SHAPES))
    write(tmp_path / "rank_1/a.ckpt", {"model.norm_out.weight": random_tensors(SHAPES)["lm_head.weight"]})
    [problem] = problems(tmp_path)
    assert "rank_1/a.ckpt" in problem


@pytest.mark.parametrize("change, words", [
    ({"theta": 777.0}, "theta is 777.0 there and 10000.0 in the recipe"),
    ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05 there and 1e-06"),
    ({"num_heads": 8, "n_kv_heads": 4},
     "num_heads is 8 there and 4 in the recipe; n_kv_heads is 4 there and 2"),
])
def test_what_an_import_recorded_is_compared(tmp_path, change, words):
    path = write(tmp_path / "base.ckpt", random_tensors(SHAPES))
    require_recorded_config(path, CONFIG)  # no manifest
    write_manifest(path, model_config={key: value for key, value in CONFIG.items() if key != "pet_config"})
    require_recorded_config(path, CONFIG)
    write_manifest(path, model_config={**CONFIG, **change})
    with pytest.raises(ToolkitError, match=words):
        require_recorded_config(path, CONFIG)
    assert words in problems(path)[0]


def test_defaults_that_are_not_stated_are_compared_too(tmp_path):
    """A recipe without theta trains with its class's default, whatever the weights were made with."""
    import_model(hf_release(tmp_path / "hf", {**CONFIG, "theta": 50.0}), tmp_path / "base.ckpt", None, False)
    assert "theta" not in CONFIG
    with pytest.raises(ToolkitError, match=r"theta is 50\.0 there and 10000\.0 in the recipe"):
        require_recorded_config(tmp_path / "base.ckpt", CONFIG)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(("damage", "words"), [
    (lambda content: content[:-100], "is truncated, damaged or not a"),
    (lambda content: content[:9], "is truncated, damaged or not a"),
    (lambda content: b"\0" * 8 + content[8:], "is truncated, damaged or not a"),
    (lambda content: content.replace(b"Float32", b"Floot32").replace(b'"F32"', b'"F3X"'),
     r"\(29 in all\) are of a type that no weights have"),
    (lambda content: b"", "is empty"), (lambda content: None, "does not exist"),
])
def test_damaged_weights_never_reach_mindspore(tmp_path, suffix, damage, words):
    path = write(tmp_path / f"base.{suffix}", random_tensors(SHAPES))
    content = damage(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ToolkitError, match=f"--base .*{words}"):
        require_weights(path, CONFIG, "--base")
