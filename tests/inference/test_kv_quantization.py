"""A key-value cache of few bits: the rounding by hand, and answers, scores and losses that all see it."""

import numpy as np
import pytest

from research_internlm.inference.engine import Engine
from research_internlm.inference.kv_quantization import KvQuantization, LayerScales
from research_internlm.shared.errors import ToolkitError
from tests.helpers.warm import run_warm


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    output = tmp_path_factory.mktemp("kv") / "result.npz"
    run_warm("-m", "tests.helpers.rounded_cache", output)
    return np.load(output)


def per_token_and_head(values, bits=8):
    """LMDeploy since 0.4: scale (max - min) / 255 over a head of a token, counted from its min."""
    low, high = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
    scale = (high - low) / (2 ** bits - 1)
    return np.rint((values - low) / scale) * scale + low


@pytest.mark.model
def test_rounding_per_token_and_head(result):
    heads = result["values"].reshape(1, 5, 2, 8)
    assert np.allclose(result["token values"].reshape(heads.shape), per_token_and_head(heads), atol=2e-5)
    assert np.allclose(result["token keys"], per_token_and_head(result["keys"]), atol=2e-5)
    assert np.abs(result["token keys"] - result["keys"]).max() > 1e-4


@pytest.mark.model
def test_rounding_per_layer(result):
    # LMDeploy 0.1 to 0.3: q = round((x - zp) / scale) in an int8, and back.
    for kind, scale, zero in (("keys", 0.02, 0.3), ("values", 0.01, -0.1)):
        expected = np.clip(np.rint((result[kind] - zero) / scale), -128, 127) * scale + zero
        assert np.allclose(result[f"layer {kind}"], expected, atol=1e-4)


@pytest.mark.model
def test_answers_and_scores_see_the_same_cache(result):
    assert (result["generated"] == result["by passes"]).all()
    assert 0 < np.abs(result["change"]).mean() < 0.05 * result["logits"].std()


@pytest.mark.model
def test_losses_are_those_of_the_network_s_logits(result):
    logits = result["logits"].astype(np.float64)
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), result["next"]]
    assert np.allclose(result["losses"], expected, atol=1e-3)


def recipe(**model_config):
    return {"context": {"device_target": "CPU"}, "runner_config": {"batch_size": 1},
            "model": {"model_config": {"seq_length": 64, "num_layers": 2, **model_config}}}


def test_what_is_not_simulated_is_refused():
    scales = [LayerScales(1, 0, 1, 0)] * 3
    with pytest.raises(ToolkitError, match="are of 3 layers, the model has 2"):
        Engine(recipe(), "x.ckpt", (2,), kv=KvQuantization(8, scales))
    with pytest.raises(ToolkitError, match="remove qkv_concat"):
        Engine(recipe(qkv_concat=True), "x.ckpt", (2,), kv=KvQuantization(8))
    on_npu = {**recipe(), "context": {"device_target": "Ascend"}}
    with pytest.raises(ToolkitError, match="of 4 bits is simulated on a CPU only, but device_target is"):
        Engine(on_npu, "x.ckpt", (2,), kv=KvQuantization(4))


def test_the_memory_of_a_token():
    # InternLM-7B: 32 layers, 32 heads of 128; keys and values.
    static = KvQuantization(8, [LayerScales(1, 0, 1, 0)] * 32)
    assert static.bytes_of_token(32, 32, 128) == 2 * 32 * 32 * 128
    assert KvQuantization(8).bytes_of_token(32, 32, 128) == 2 * 32 * 32 * (128 + 4)
    assert KvQuantization(4).bytes_of_token(32, 32, 128) == 2 * 32 * 32 * (64 + 4)
