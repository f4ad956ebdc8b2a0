"""Rows longer than the release's positions, where it scales its rotary angles."""

import pytest

from research_internlm.recipes.positions import length_problem

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}


@pytest.mark.parametrize(("config", "words"), [
    ({"rope_scaling": DYNAMIC, "max_position_embedding": 32768, "seq_length": 32769}, "to at most 32768"),
    ({"rope_scaling": 5, "max_position_embedding": 32768, "seq_length": 9}, "rope_scaling is 5; it must be"),
])
def test_a_recipe_that_the_release_would_compute_otherwise_is_named(config, words):
    assert words in length_problem(config)


@pytest.mark.parametrize("config", [
    {"rope_scaling": DYNAMIC, "max_position_embedding": 32768, "seq_length": 32768},
    {"max_position_embedding": 2048, "seq_length": 4096},
    {"rope_scaling": DYNAMIC, "seq_length": 99999}, {"rope_scaling": None}, {},
    {"rope_scaling": DYNAMIC, "max_position_embedding": "x", "seq_length": 5},
])
def test_others_are_not(config):
    assert length_problem(config) is None
