"""Merging an adapter: the sums, and every base, adapter and result that is refused."""

import copy
import json
import shutil

import numpy as np
import pytest

from research_internlm import recipes
from research_internlm.checkpoints import dtypes, weight_names
from research_internlm.checkpoints.merging import merge
from research_internlm.model import lora
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of
from tests.helpers import weight_files
from tests.helpers.commands import assert_user_error, run_script
from tests.helpers.weight_files import (
    CONFIG,
    SHAPES,
    WEIGHTS,
    lora_tensors,
    make_run,
    random_tensors,
    read,
    write,
)

run = weight_files.run  # fixture


def test_merge_adds_the_scaled_product_and_drops_what_is_no_weight(tmp_path):
    state = {"step_num": np.array([4], np.int32),
             "adam_m." + next(iter(lora_tensors())): np.ones(3, np.float32)}
    weights = random_tensors(SHAPES)
    base = write(tmp_path / "base.ckpt", {**weights, **state})
    adapter = make_run(tmp_path / "run", base)
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
def test_merge_keeps_the_base_s_type_and_computes_in_float32(tmp_path, flag):
    weights = random_tensors(SHAPES, dtype=dtypes.FLAG_TYPES[flag])
    base = write(tmp_path / "low.ckpt", weights)
    merge(base, make_run(tmp_path / "low", base), tmp_path / "m.ckpt", overwrite=False)
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


def states(folder, digest):
    (folder / "run.json").write_text(json.dumps({"load_checkpoint_sha256": digest}))


def add_full(folder, seed=0):
    """A full checkpoint where a run leaves it."""
    return write(folder / "checkpoint" / "rank_0" / "full.ckpt",
                 {**random_tensors(SHAPES, seed), **lora_tensors()})


@pytest.mark.parametrize("known", ["sha256", "full", "both", "none"])
def test_merging_twice_is_refused_whatever_tells_the_base(run, tmp_path, known):
    folder, base, adapter = run
    merge(base, adapter, tmp_path / "merged.ckpt", False)
    renamed = shutil.copy(tmp_path / "merged.ckpt", tmp_path / "renamed.ckpt")  # without its manifest
    if known in ("full", "none"):
        states(folder, None)
    if known in ("full", "both"):
        add_full(folder)
    message = {"sha256": "another base, one merged already", "none": "nothing tells whether"}.get(
        known, r"6 weights of .*renamed.ckpt are not those the adapter was trained on")
    with pytest.raises(ToolkitError, match=message):
        merge(renamed, adapter, tmp_path / "again.ckpt", False)
    assert not (tmp_path / "again.ckpt").exists()


def test_an_adapter_without_its_run_is_merged_unchecked_but_not_twice(run, tmp_path, capsys):
    folder, base, adapter = run
    (folder / "run.json").unlink()
    merge(base, adapter, tmp_path / "m.ckpt", False)
    assert "nothing tells whether" in capsys.readouterr().out
    with pytest.raises(ToolkitError, match="nothing tells"):
        merge(tmp_path / "m.ckpt", adapter, tmp_path / "again.ckpt", False)


def test_another_base_is_refused_and_the_right_one_known_by_the_run_s_checkpoint(run, tmp_path):
    folder, base, adapter = run
    states(folder, None)
    other = write(tmp_path / "other.ckpt", random_tensors(SHAPES, seed=9))
    for path in (base, other):
        with pytest.raises(ToolkitError, match=r"nothing tells .*random weights has none.*as --base"):
            merge(path, adapter, tmp_path / "m.ckpt", False)
    full = add_full(folder)
    with pytest.raises(ToolkitError, match=rf"weights of .*other.ckpt are not those.*{full}"):
        merge(other, adapter, tmp_path / "m.ckpt", False)
    merge(base, adapter, tmp_path / "m.ckpt", False)


@pytest.mark.parametrize("adapter_is_full", [True, False])
def test_the_same_base_in_another_form_is_the_same_base(run, tmp_path, adapter_is_full):
    folder, base, adapter = run
    again = write(tmp_path / "base.safetensors", random_tensors(SHAPES))
    with pytest.raises(ToolkitError, match=r"same weights in another form.*exactly the run's --load_checkp"):
        merge(again, adapter, tmp_path / "m.ckpt", False)
    full = add_full(folder)
    merge(again, full if adapter_is_full else adapter, tmp_path / "m.ckpt", False)
    merge(base, adapter, tmp_path / "n.ckpt", False)
    assert (tmp_path / "m.ckpt").read_bytes() == (tmp_path / "n.ckpt").read_bytes()


def test_another_base_is_known_by_the_sha256_in_run_json(run, tmp_path):
    folder, base, adapter = run
    states(folder, "0" * 64)
    with pytest.raises(ToolkitError, match=r"sha256 0{64} \(run.json\), but .*another base"):
        merge(base, adapter, tmp_path / "m.ckpt", False)


@pytest.mark.parametrize("content", ["[]", '{"load_checkpoint_sha256": 5}', "5"])
def test_a_run_json_that_is_none_is_refused(run, tmp_path, content):
    folder, base, adapter = run
    (folder / "run.json").write_text(content)
    with pytest.raises(ToolkitError, match=r"run.json is not valid: .*; restore the run's own"):
        merge(base, adapter, tmp_path / "m.ckpt", False)


def test_an_adapter_below_another_run_s_folder_is_not_that_run_s(run, tmp_path):
    folder, base, adapter = run
    nested = folder / "old" / "mine" / "a.ckpt"
    nested.parent.mkdir(parents=True)
    shutil.copy(adapter, nested)
    with pytest.raises(ToolkitError, match=r"which is not in [^ ]*old/mine; copy the run's resolved_config"):
        merge(base, nested, tmp_path / "m.ckpt", False)
    for name in ("resolved_config.yaml", "run.json"):
        shutil.copy(folder / name, nested.parent)
    merge(base, nested, tmp_path / "m.ckpt", False)


def change_pet(folder, **change):
    config = copy.deepcopy(CONFIG)
    config["pet_config"] = {key: value for key, value in {**config["pet_config"], **change}.items()
                            if value is not None}
    recipes.write_resolved({"model": {"model_config": config}}, folder / "resolved_config.yaml")


def test_mindformers_defaults_are_an_adapter_s(tmp_path):
    """A run without lora_alpha was trained with LoraConfig's 16."""
    base = write(tmp_path / "base.ckpt", random_tensors(SHAPES))
    adapter = make_run(tmp_path / "run", base)
    change_pet(tmp_path / "run", lora_alpha=None)
    assert merge(base, adapter, tmp_path / "m.ckpt", False)["scaling"] == 8.0  # 16 / rank 2
    change_pet(tmp_path / "run", lora_rank=None)
    with pytest.raises(ToolkitError, match=r"expected \(8, 8\).*\(lora_rank 8\)"):
        merge(base, adapter, tmp_path / "n.ckpt", False)


@pytest.mark.parametrize(("change", "message"), [
    ({"target_modules": None}, "target_modules is None; it must be a regular expression"),
    ({"target_modules": "*wq"}, r"target_modules is '\*wq'; it must be a regular expression"),
    ({"lora_rank": 0}, "lora_rank is 0; it must be a whole number of at least 1"),
    ({"lora_alpha": "32"}, "lora_alpha is '32'; it must be"),
])
def test_a_pet_config_that_trains_nothing_is_refused(run, tmp_path, change, message):
    folder, base, adapter = run
    change_pet(folder, **change)
    with pytest.raises(ToolkitError, match=message):
        merge(base, adapter, tmp_path / "m.ckpt", False)


@pytest.mark.parametrize(("change", "message"), [
    ({"lora_rank": 4}, r"of another shape: .*mindpet_delta_lora_a is \(2, 8\), expected \(4, 8\).*rank 4"),
    ({"target_modules": ".*wq|.*wv"}, r"4 extra: .*w2.mindpet_delta_lora_a"),
    ({"target_modules": ".*wq|.*wv|.*w2|.*wo"}, r"4 missing: .*wo.mindpet_delta_lora_a"),
])
def test_an_adapter_of_another_rank_or_other_targets_is_refused(run, tmp_path, change, message):
    folder, base, adapter = run
    change_pet(folder, **change)
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
    states(tmp_path / "run", sha256_of(base))
    with pytest.raises(ToolkitError, match=r"1 tensors would hold NaN.*(?<!--dtype); the run overflowed"):
        merge(base, adapter, tmp_path / "m.ckpt", False)
    assert not (tmp_path / "m.ckpt").exists()


def test_an_adapter_away_from_its_run_is_told_where_the_config_was_looked_for(run, tmp_path):
    _, base, _ = run
    lonely = write(tmp_path / "else" / "a.ckpt", lora_tensors())
    done = run_script(WEIGHTS, "merge", "--base", base, "--adapter", lonely, "--output", tmp_path / "m.ckpt",
                      check=False)
    assert_user_error(done, "resolved_config.yaml", str(tmp_path / "else"), "copy the run's")
