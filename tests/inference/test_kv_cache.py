"""Decoding with the static key-value cache against MindFormers' own generate and forward pass."""

import json

import pytest

from research_internlm.model import cpu_patches
from tests.helpers.warm import run_warm

NEW = 12  # tokens the script asks for


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def result(request, tmp_path_factory):
    """Both ways on one random LoRA-wrapped model, and the cache on its merged weights: see the script."""
    output = tmp_path_factory.mktemp(request.param) / "result.json"
    run_warm("-m", "tests.helpers.cached_and_stock_generation", request.param, output)
    content = json.loads(output.read_text())
    assert any("wk.bias" in name for name in content["parameters"]) == (request.param == "internlm")
    return content


@pytest.mark.model
def test_logits_of_every_step_are_those_of_a_whole_forward_pass(result):
    """They differ by less than where each weight is rounded to a neighbour.

    The order of sums is another one, and MindSpore chooses it anew in each process: 3e-5 to 1.4e-4 were seen
    with 2.7.2 and 2.9.0, for logits up to 8.
    """
    assert result["logit_difference"] < result["rounding"] < 1e-2


@pytest.mark.model
def test_tokens_are_those_of_mindformers_generate(result):
    assert result["cached_endless"] == result["stock_endless"]
    assert all(len(answer) == NEW for answer in result["cached_endless"])
    assert len({tuple(answer) for answer in result["cached_endless"]}) > 1  # the prompts matter


@pytest.mark.model
@pytest.mark.parametrize("result", ["internlm"], indirect=True)
def test_merged_weights_give_the_tokens_of_the_adapter(result):
    assert result["merged_endless"] == result["cached_endless"]


@pytest.mark.model
@pytest.mark.parametrize("result", ["internlm2"], indirect=True)
def test_a_batch_of_unlike_lengths_has_the_answers_of_its_prompts_alone(result):
    """MindFormers' own generate, which answers on Ascend; there with its paged cache, which a CPU lacks."""
    assert result["stock_endless"] == result["stock_alone"]


@pytest.mark.model
def test_token_0_is_a_token_in_prompts_and_answers(result):
    """The records are padded with 0, but padding is told by its place."""
    assert any(0 in answer[:-1] and any(answer) for answer in result["cached_endless"])
    assert sum(0 in prompt for prompt in result["prompts"]) == 2


@pytest.mark.model
@pytest.mark.parametrize("minimum", [0, 3])
def test_rows_stop_where_mindformers_stops_them(result, minimum):
    cached = result[f"cached_{minimum}"]
    assert cached == result[f"stock_{minimum}"]
    lengths = {len(answer) for answer in cached}
    assert len(lengths) > 1 and min(lengths) > minimum
    if minimum == 0:
        assert min(lengths) < NEW


@pytest.mark.parametrize(("device", "settings", "expected"), [
    ("CPU", {}, True),
    ("Ascend", {}, False),
    ("CPU", {"repetition_penalty": 1.0, "residual_dtype": "float16"}, True),
    ("CPU", {"repetition_penalty": 1.2}, False),
    ("CPU", {"qkv_concat": True}, False),
    ("CPU", {"residual_dtype": "float32"}, False),
])
def test_mindformers_keeps_what_the_static_cache_is_not_for(device, settings, expected):
    assert cpu_patches.uses_static_cache({"compute_dtype": "float16", **settings}, device) is expected
