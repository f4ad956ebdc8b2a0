"""Chat and server with the real network: their answers are the engine's."""

import json

import numpy as np
import pytest

from tests.helpers.warm import run_warm

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def result(tmp_path_factory, demo_data):
    output = tmp_path_factory.mktemp("served") / "result.json"
    run_warm("-m", "tests.helpers.served_answers", demo_data / "tokenizer.model", output)
    return json.loads(output.read_text())


def test_a_greedy_chat_over_an_exported_folder_is_what_generate_writes(result):
    assert result["engine"]["chat"]
    assert result["chat"] == result["engine"]["chat"] + "\n"


def test_requests_at_once_are_answered_as_alone_and_as_generate_does(result):
    found = result["server"]
    assert len(set(result["engine"]["answers"])) == 7
    assert found["together"] == found["alone"] == found["list"] == result["engine"]["answers"]


def test_a_seed_gives_the_engines_sampled_answer(result):
    assert result["server"]["sampled"] == result["engine"]["sampled"]
    assert result["server"]["sampled"] != result["engine"]["answers"][:2]


def test_scores_of_prompts_and_answers_are_the_networks(result):
    for scored, wanted in zip(result["server"]["scored"], result["engine"]["scored"], strict=True):
        assert scored["token_logprobs"][0] is None
        assert np.allclose(scored["token_logprobs"][1:], wanted["own"], atol=1e-4)
        likeliest = [max(top.values()) for top in scored["top_logprobs"][1:]]
        assert np.allclose(likeliest, wanted["most"], atol=1e-4)
    for scored, wanted in zip(result["server"]["logprobs"], result["engine"]["logprobs"], strict=True):
        assert np.allclose(scored, wanted, atol=1e-4)


def test_an_adapter_is_a_model_of_its_own(result):
    tuned = result["server"]["tuned"][1:-1]
    assert np.allclose(tuned, result["engine"]["tuned"], atol=1e-3)
    assert not np.allclose(tuned, result["engine"]["scored"][0]["own"][:-1], atol=0.1)
