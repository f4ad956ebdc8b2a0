"""weights.py quantize: the folder it writes, what smoothing changes, a kill, and the way back."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from research_internlm import weights
from research_internlm.checkpoints import weight_names
from research_internlm.quantisation import loading
from research_internlm.quantisation.awq_format import quantize, to_gemm
from research_internlm.quantisation.layer_quantizer import Inputs, quantize_layer
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest
from tests.helpers.commands import exam_items
from tests.helpers.tiny_quantised import CONFIG, GROUP, GROUPED, make_model, weights_of
from tests.helpers.tiny_vocabulary import write_vocabulary
from tests.helpers.warm import run_warm
from tests.helpers.weight_files import read

LINEARS = ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1",
           "feed_forward.w2", "feed_forward.w3")


def command(folder, name, *more):
    return ["quantize", "--model", str(folder / "model.ckpt"), "--config", str(folder / "model.yaml"),
            "--output", str(folder / name), "--group_size", str(GROUP), *more]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, *make_model(folder, write_vocabulary(folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def rounded(model):
    folder, *_ = model
    weights.main(command(folder, "rtn", "--method", "rtn"))
    return folder / "rtn"


def linear(tensors, name):
    """A linear weight by the format's own formula: (number - zero) * scale, group by group."""
    cell = weight_names.to_hf(f"{name}.weight").removesuffix("weight")
    words, zeros, scales = (tensors[cell + part] for part in ("qweight", "qzeros", "scales"))

    def columns(packed):
        wide = packed.astype(np.int64)
        nibbles = np.stack([wide >> 4 * place & 15 for place in (0, 4, 1, 5, 2, 6, 3, 7)], -1)
        return nibbles.reshape(len(packed), -1)

    grouped = np.repeat(columns(zeros), GROUP, 0), np.repeat(scales, GROUP, 0)
    return ((columns(words) - grouped[0]) * grouped[1].astype(np.float32)).T


def test_a_folder_in_the_form_that_hugging_face_reads(model, rounded):
    folder, _, _, tensors, config = model
    written = load_file(rounded / "model.safetensors")
    stated = json.loads((rounded / "config.json").read_text())
    assert stated["quantization_config"] == {
        "quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True,
        "modules_to_not_convert": None}
    assert (stated["model_type"], stated["attention_bias"]) == ("llama", True)
    assert len(written) == 3 + 3 * (7 * 3 + 4 + 2)  # three parts a linear layer, four biases, two norms
    down = "model.layers.1.mlp.down_proj"
    assert [(written[f"{down}.{part}"].dtype.name, written[f"{down}.{part}"].shape) for part in (
        "qweight", "qzeros", "scales")] == [("int32", (96, 8)), ("int32", (3, 8)), ("float16", (3, 64))]
    assert written["model.layers.2.self_attn.o_proj.bias"].dtype == np.float16
    assert written["lm_head.weight"].shape == (config["vocab_size"], 64)
    for name in ("model.layers.0.attention.wk", "model.layers.2.feed_forward.w2"):
        # Half a step of the largest group: its range is at most 0.9.
        assert np.abs(linear(written, name) - tensors[f"{name}.weight"]).max() < 0.9 / 15 / 2
    manifest = read_manifest(rounded / "model.safetensors")
    assert manifest["counts"] == {"in": 42, "out": len(written), "dropped": {"training state": 0}}
    assert (manifest["method"], manifest["bits"], manifest["group_size"]) == ("rtn", 4, GROUP)
    assert not (folder / "rtn.stages").exists()


def test_the_way_back_is_the_format_s_formula(model, rounded, tmp_path):
    _, _, _, tensors, _ = model
    facts = loading.dequantize(rounded, tmp_path / "back.safetensors")
    back, written = read(tmp_path / "back.safetensors"), load_file(rounded / "model.safetensors")
    assert facts["bits"] == 4 and facts["bytes"] == (rounded / "model.safetensors").stat().st_size
    assert list(back) == list(tensors)
    for layer in range(3):
        for cell in LINEARS:
            name = f"model.layers.{layer}.{cell}"
            assert np.allclose(back[f"{name}.weight"], linear(written, name), rtol=1e-3, atol=1e-7)
    assert (back["lm_head.weight"] == tensors["lm_head.weight"].astype(np.float16)).all()


def test_a_hugging_face_folder_gives_the_same_and_its_tokenizer_goes_along(model, rounded):
    folder, checkpoint, recipe, *_ = model
    tokenizer = folder / "tokenizer.model"
    weights.main(["to-hf", str(checkpoint), str(folder / "hf"), "--config", str(recipe), "--model_file",
                  str(tokenizer)])
    weights.main(["quantize", "--model", str(folder / "hf"), "--method", "rtn", "--group_size", str(GROUP),
                  "--output", str(folder / "from_hf")])
    written, expected = (load_file(path / "model.safetensors") for path in (folder / "from_hf", rounded))
    assert set(written) == set(expected) and all((written[name] == expected[name]).all() for name in written)
    assert (folder / "from_hf" / "tokenizer.model").read_bytes() == tokenizer.read_bytes()
    assert "chat_template" in json.loads((folder / "from_hf" / "tokenizer_config.json").read_text())


def test_a_vocabulary_of_another_kind_is_warned_about_and_costs_no_calibration(tmp_path, capsys):
    tokenizer = write_vocabulary(tmp_path / "tokenizer.model", model_type="unigram")
    make_model(tmp_path, tokenizer)
    weights.main(command(tmp_path, "out", "--method", "rtn", "--model_file", str(tokenizer)))
    assert "warning: tokenizer.model is there for this toolkit alone" in capsys.readouterr().out
    assert (tmp_path / "out/tokenizer.model").read_bytes() == tokenizer.read_bytes()
    assert not (tmp_path / "out/tokenizer.json").exists()


def test_internlm2_s_fused_weights_are_cut_after_they_are_dequantised(tmp_path):
    # As LMDeploy quantises an InternLM2: q, k and v of each key head after each other in wqkv.
    config = {**GROUPED, "vocab_size": 20, "num_layers": 1}
    tensors = weights_of(config)
    folder = tmp_path / "internlm2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "model_type": "internlm2", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 20, "intermediate_size": 96, "bias": False,
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}}))
    q, k, v = (tensors[f"model.layers.0.attention.w{one}.weight"].reshape(2, -1, 16, 64) for one in "qkv")
    fused = np.concatenate((q, k, v), 1).reshape(-1, 64)
    wide = {f"model.layers.0.{cell}": tensors[f"model.layers.0.{cell}.weight"] for cell in LINEARS[3:]}
    wide["model.layers.0.attention.wqkv"] = fused
    release = {f"{cell}.{part}": value for cell, weight in wide.items()
               for part, value in to_gemm(quantize(weight, GROUP)).items()}
    release |= {weight_names.to_hf(name, "internlm2"): value.astype(np.float16)
                for name, value in tensors.items() if "norm" in name or "layers" not in name}
    save_file(release, folder / "model.safetensors")
    loading.dequantize(folder, tmp_path / "back.ckpt")
    back = read(tmp_path / "back.ckpt")
    for one in "qkv":
        name = f"model.layers.0.attention.w{one}.weight"
        assert np.abs(back[name] - tensors[name]).max() < 0.9 / 15 / 2


def test_eight_bits_for_vllm_ascend(model):
    folder, _, _, tensors, _ = model
    weights.main(command(folder, "w8", "--method", "rtn", "--format", "modelslim"))
    written = load_file(folder / "w8" / "model.safetensors")
    kinds = json.loads((folder / "w8" / "quant_model_description.json").read_text())
    assert kinds.pop("model_quant_type") == "W8A16" and set(kinds) == set(written)
    assert "quantization_config" not in json.loads((folder / "w8" / "config.json").read_text())
    up = "model.layers.0.mlp.up_proj"
    assert all(kinds[f"{up}.{kind}"] == "W8A16" for kind in ("weight", "weight_scale", "weight_offset"))
    assert kinds["model.layers.0.self_attn.q_proj.bias"] == kinds["lm_head.weight"] == "FLOAT"
    assert written[f"{up}.weight"].dtype == np.int8 and written[f"{up}.weight"].shape == (96, 64)
    assert written[f"{up}.weight_scale"].shape == written[f"{up}.weight_offset"].shape == (96, 1)
    weight = tensors["model.layers.0.feed_forward.w3.weight"]
    assert np.allclose(written[f"{up}.weight_scale"][:, 0], np.abs(weight).max(1) / 127)
    found = (written[f"{up}.weight"] + written[f"{up}.weight_offset"]) * written[f"{up}.weight_scale"]
    assert np.abs(found - weight).max() <= np.abs(weight).max() / 127 / 2 * 1.001
    loading.dequantize(folder / "w8", folder / "w8.ckpt")
    assert np.allclose(read(folder / "w8.ckpt")["model.layers.0.feed_forward.w3.weight"], found, rtol=1e-3)


def test_the_checkpoint_for_mindformers_says_the_same_numbers_and_that_it_never_ran(model, rounded, capsys):
    folder, *_ = model
    weights.main(command(folder, "ms", "--method", "rtn", "--format", "mindspore"))
    assert "never loaded by MindFormers and never run on an NPU" in capsys.readouterr().out
    assert "**Never run.**" in (folder / "ms" / "README.md").read_text()
    assert "never run" in read_manifest(folder / "ms" / "model.ckpt")["note"]
    written, name = read(folder / "ms" / "model.ckpt"), "model.layers.1.feed_forward.w2"
    pairs = written[f"{name}._layer.weight"]["int4x2"]
    assert pairs.shape == (96, 32)
    # Golden Stick's rules by hand: even column in the low nibble, signed, and (number + zp) * scale.
    low, high = (((part ^ 8).astype(np.int16) - 8) for part in (pairs & 15, pairs >> 4))
    numbers = np.stack((low, high), -1).reshape(96, 64)
    zp, scale = (np.repeat(written[f"{name}._layer.matmul.weight_{part}"], GROUP, 0).astype(np.float32)
                 for part in ("zp", "scale"))
    assert np.allclose(((numbers + zp) * scale).T, linear(load_file(rounded / "model.safetensors"), name))
    assert f"{name}._layer.weight" in written and "model.layers.0.attention.wq._layer.bias" in written
    assert "model.tok_embeddings.embedding_weight" in written


@pytest.mark.parametrize(("more", "expected"), [
    ((), "--method awq needs --calibration"),
    (("--method", "rtn", "--calibration", "x.txt"), "--method rtn looks at no data"),
    (("--method", "rtn", "--group_size", "48"), "must divide the inputs of every linear "
     "layer, and 8 the outputs: attention.wq is 64 x 64"),
    (("--method", "rtn", "--bits", "8"), "--format awq has 4 bits a weight, but --bits asks for 8"),
    (("--format", "modelslim", "--calibration", "x.txt"), "which AWQ does not search for: add --method rtn"),
    (("--calibration", "nowhere.json"), "--calibration nowhere.json does not exist"),
])
def test_what_cannot_be_done_is_said_before_anything_is_written(model, more, expected):
    folder, *_ = model
    with pytest.raises(ToolkitError, match=expected):
        weights.main(command(folder, "refused", *more))
    assert not list(folder.glob("*refused*"))


def test_stages_of_another_command_are_not_continued(model):
    folder, *_ = model
    stages = folder / "other.stages"
    stages.mkdir()
    (stages / "settings.json").write_text('{"method": "awq", "bits": 4}')
    with pytest.raises(ToolkitError, match=r"other\.stages holds what another command .*differs in method, "):
        weights.main(command(folder, "other", "--method", "rtn"))


def test_only_a_folder_of_quantised_weights_is_overwritten(model, rounded):
    folder, *_ = model
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ToolkitError, match="mine is not a folder of quantised weights"):
        weights.main(command(folder, "mine", "--method", "rtn", "--overwrite"))
    assert (folder / "mine" / "thesis.txt").exists()
    weights.main(command(folder, "rtn", "--method", "rtn", "--overwrite"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, demo_data):
    """Everything that needs the network, made in one process."""
    folder = tmp_path_factory.mktemp("awq")
    (folder / "tokenizer.model").write_bytes((demo_data / "tokenizer.model").read_bytes())
    (folder / "items.json").write_text(json.dumps(exam_items(demo_data)[:40]))
    run_warm("-m", "tests.helpers.layer_by_layer", folder)
    return folder, json.loads((folder / "done.json").read_text())


@pytest.mark.model
def test_the_layers_one_by_one_are_the_network(made):
    assert np.allclose(*made[1]["logits"], atol=1e-3)


@pytest.mark.model
def test_a_killed_command_goes_on_and_ends_at_the_same_bytes(made):
    folder, done = made
    assert {"layer_000.npz", "layer_001.npz", "hidden_002.npy"} <= set(done["stages"])
    assert "layer_002.npz" not in done["stages"] and "hidden_000.npy" not in done["stages"]
    first, second = (folder / "biased" / name / "model.safetensors" for name in ("continued", "at_once"))
    assert first.read_bytes() == second.read_bytes()
    assert not (folder / "biased" / "continued.stages").exists()
    manifest = read_manifest(second)
    assert manifest["sequences"] == 6 and manifest["tokens_used"] == 6 * 48


@pytest.mark.model
def test_smoothing_moves_scales_and_changes_nothing_else(made):
    folder, _ = made
    written = load_file(folder / "biased" / "at_once" / "model.safetensors")
    choices = read_manifest(folder / "biased" / "at_once" / "model.safetensors")["layers"]
    tensors = weights_of({**CONFIG, "vocab_size": len(written["lm_head.weight"])})
    for layer, found in enumerate(choices):
        own = {key.removeprefix(f"model.layers.{layer}."): value for key, value in tensors.items()
               if key.startswith(f"model.layers.{layer}.")}
        groups = {cell: linear(written, f"model.layers.{layer}.{cell}") for cell in LINEARS}
        plain = {name: written[weight_names.to_hf(f"model.layers.{layer}.{name}")].astype(np.float32)
                 for name in own if "norm" in name or name.endswith("bias")}
        require_same_layer(own, groups, plain)
        assert set(found) == {"qkv", "wo", "gate_up", "w2"}
        assert all(choice["error"] <= choice["plain_error"] for choice in found.values())
    assert sum(choice["ratio"] is not None for layer in choices for choice in layer.values()) > 6


def require_same_layer(own, groups, plain):
    """Checks that rounded weights are the layer's own, scaled in a way that cancels."""
    def ratio(name):
        return np.divide(own[name], plain[name], out=np.ones_like(own[name]), where=plain[name] != 0)

    qkv, gate_up = ratio("attention_norm.weight"), ratio("ffn_norm.weight")
    assert qkv[1] == gate_up[1] == 1  # a norm's weight of 0 cannot be divided
    columns = dict.fromkeys(LINEARS[:3], qkv) | {"feed_forward.w1": gate_up}
    rows = {}
    if "attention.wv.bias" in own:
        columns["attention.wo"] = rows["attention.wv"] = ratio("attention.wv.bias")
    for cell, scale in columns.items():
        expected = own[f"{cell}.weight"] * scale / rows.get(cell, np.ones(1))[:, None]
        # Half a step of a group, and the scales' own rounding to float16.
        steps = np.ptp(np.append(expected, 0)) / 15
        assert np.abs(groups[cell] - expected).max() < 0.55 * steps
    # w3's rows are divided by what is written nowhere; w2's columns take it back.
    joint = groups["feed_forward.w2"] @ (groups["feed_forward.w3"] / gate_up)
    expected = own["feed_forward.w2.weight"] @ own["feed_forward.w3.weight"]
    assert np.abs(joint - expected).mean() < 0.35 * np.abs(expected).mean()


@pytest.mark.parametrize("config", [CONFIG, GROUPED])
def test_a_layer_is_the_same_function_after_smoothing_and_wo_stays_out_under_grouped_queries(config):
    tensors = weights_of({**config, "vocab_size": 20, "num_layers": 1}, seed=8)
    own = {name.removeprefix("model.layers.0."): value for name, value in tensors.items() if "layers" in name}
    random = np.random.default_rng(2)
    inputs = {}
    for name, width in (("qkv", 64), ("wo", 64), ("gate_up", 64), ("w2", 96)):
        values = random.normal(0, 1, (2, 30, width)).astype(np.float32)
        values[..., random.integers(0, width, 4)] *= 30
        inputs[name] = Inputs()
        inputs[name].see(values, 0.5)
        assert len(np.concatenate(inputs[name].some)) == 30
        assert np.allclose(inputs[name].magnitude, np.abs(values).mean((0, 1)))
    made = quantize_layer(own.__getitem__, list(own), GROUP, inputs)
    require_same_layer(own, {cell: group.values().astype(np.float32) for cell, group in made.groups.items()},
                       made.plain)
    assert ("wo" in made.choices) == (config is CONFIG)


@pytest.mark.model
def test_mindspore_reads_the_checkpoint_for_golden_stick_as_its_own_type(made):
    assert made[1]["packed"] == ["Int4", [96, 32]]


@pytest.mark.model
def test_statistics_of_the_cache_byte_for_byte(made):
    folder = made[0] / "biased" / "statistics"
    stated = json.loads((folder / "kv_cache.json").read_text())
    assert (stated["bits"], len(stated["layers"])) == (8, 3) and "which meant 8 bits there" in stated["note"]
    for number, layer in enumerate(stated["layers"]):
        content = (folder / f"layers.{number}.past_kv_scale.0.weight").read_bytes()
        k_scale, k_zp, v_scale, v_zp = struct.unpack("<4f", content)
        for scale, zero, kind in ((k_scale, k_zp, "key_heads"), (v_scale, v_zp, "value_heads")):
            heads = layer[kind]
            low, high = min(head["min"] for head in heads), max(head["max"] for head in heads)
            assert len(heads) == 4
            assert scale == pytest.approx((high - low) / 255)
            assert zero == pytest.approx((high + low) / 2, abs=1e-6)
            assert all(head["absmax"] == max(-head["min"], head["max"]) for head in heads)
    seen = made[1]["values"]  # of the first layer, computed by numpy
    assert [head["max"] for head in stated["layers"][0]["value_heads"]] == pytest.approx(seen, rel=1e-4)
