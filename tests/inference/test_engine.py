"""One engine in all ways, with the real network: answers, streams and scores agree with each other."""

import json

import numpy as np
import pytest

from research_internlm import recipes
from research_internlm.inference.engine import Engine, _build
from research_internlm.inference.sampling import Sampling
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_manifest
from tests.helpers.warm import run_warm
from tests.helpers.weight_files import CONFIG, SHAPES, random_tensors, write


def test_weights_recorded_with_other_settings_are_refused_before_the_model_is_built(tmp_path):
    path = write(tmp_path / "base.ckpt", random_tensors(SHAPES))
    write_manifest(path, model_config={"theta": 777.0})
    with pytest.raises(ToolkitError, match=r"theta is 777\.0 there and 10000\.0 in the recipe"):
        _build({"model": {"model_config": CONFIG}}, 1, path, None)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    output = tmp_path_factory.mktemp("engine") / "result.json"
    run_warm("-m", "tests.helpers.engine_answers", output)
    return json.loads(output.read_text())


@pytest.mark.model
def test_a_greedy_stream_is_what_generate_writes(result):
    for kind in ("endless", "short", "stopped 0", "stopped 3"):
        generated, streamed = result[kind]
        assert streamed == generated
    assert all(len(answer) == 9 for answer in result["endless"][0])
    lengths = {len(answer) for answer in result["stopped 0"][0]}
    assert min(lengths) < 3 and len(lengths) > 1  # some answers do end at a stop id
    assert all(len(answer) >= 3 for answer in result["stopped 3"][0])


@pytest.mark.model
def test_a_stream_ends_where_the_sequence_is_full(result):
    assert result["full"] == 64 - 40


@pytest.mark.model
def test_a_sampled_stream_draws_from_the_logits_of_a_whole_forward_pass(result):
    streamed, expected = result["sampled"]
    assert streamed == expected
    assert streamed != result["endless"][0]


@pytest.mark.model
def test_scores_are_logits_of_the_same_network(result):
    assert result["one network"]
    assert np.allclose(*result["scores"], atol=1e-4)


@pytest.mark.model
def test_a_stream_is_not_read_on_after_another_began(result):
    assert "end one decoding before the next is started" in result["interleaved"]


@pytest.mark.model
def test_without_the_static_cache_mindformers_writes_the_same(result):
    assert result["stock"] == result["stopped 3"][0]


@pytest.fixture
def recipe(root):
    return recipes.resolve(root / "yaml/predict_mmlu.yaml", [root / "yaml/overlays/cpu_tiny.yaml"])


@pytest.mark.parametrize("length", [0, 256, 300])
def test_a_prompt_without_room_for_an_answer_is_refused_before_anything_is_loaded(recipe, length):
    with pytest.raises(ToolkitError, match=rf"a prompt of {length} tokens .*seq_length \(256\)"):
        next(Engine(recipe, "nowhere.ckpt", (2,)).stream([1] * length, Sampling(4)))


def test_a_cpu_does_not_sample_without_the_static_cache(recipe):
    recipes.model_config(recipe)["repetition_penalty"] = 1.2
    engine = Engine(recipe, "nowhere.ckpt", (2,))
    with pytest.raises(ToolkitError, match=r"temperature is 0\.7, but on a CPU .* repetition_penalty"):
        next(engine.stream([1], Sampling(4, temperature=0.7)))
