"""LoRA facts: counts derived by hand from InternLM's published shape, matching, scaling."""

import re

import pytest

from research_internlm.contest import scoring
from research_internlm.model import lora, shape
from research_internlm.shared.errors import ToolkitError

INTERNLM_7B = {
    "type": "InternLMConfig", "hidden_size": 4096, "num_layers": 32, "num_heads": 32,
    "vocab_size": 103168, "multiple_of": 256,
}
PET = {"pet_type": "lora", "lora_rank": 16, "lora_alpha": 32, "target_modules": ".*wq|.*wk|.*wv|.*wo"}


def test_internlm_7b_counts_are_the_contest_s():
    count = lora.count_parameters({**INTERNLM_7B, "pet_config": PET})
    # 32 layers x 4 cells x rank 16 x (4096 + 4096)
    assert count.trainable == 16_777_216
    # By hand: 2 x 103168 x 4096 + 32 x (4 x (4096^2 + 4096) + 3 x 4096 x 11008 + 2 x 4096) + 4096
    assert count.base == 7_321_948_160
    assert count.matched == 128
    assert round(scoring.contest_ratio(count), 5) == 0.00229


@pytest.mark.parametrize(("rank", "targets", "trainable"), [
    (8, ".*wq|.*wk|.*wv|.*wo|.*w1|.*w2|.*w3", 19_988_480),  # nju-websoft, self-reported
    (8, ".*wk|.*wo", 4_194_304),  # whale team, self-reported
    (4, ".*wq|.*wk|.*wv|.*wo", 4_194_304),  # Keke team, self-reported
])
def test_counts_match_what_teams_reported(rank, targets, trainable):
    pet = {**PET, "lora_rank": rank, "target_modules": targets}
    assert lora.count_parameters({**INTERNLM_7B, "pet_config": pet}).trainable == trainable


def test_internlm_20b_has_no_bias_and_its_published_size():
    # 60 layers, hidden 5120, ffn 13824, untied head: 20.1 B (InternLM technical report's "20B")
    count = lora.count_parameters({**INTERNLM_7B, "hidden_size": 5120, "num_layers": 60, "num_heads": 40,
                                   "has_bias": False})
    by_hand = 2 * 103168 * 5120 + 60 * (4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120) + 5120
    assert count.base == count.trainable == by_hand


def test_grouped_query_attention_narrows_wk_and_wv():
    linears = {cell.name: cell for cell in shape.layer_linears(
        {**INTERNLM_7B, "n_kv_heads": 8, "intermediate_size": 14336, "has_bias": False})}
    assert (linears["wk"].in_channels, linears["wk"].out_channels) == (4096, 1024)
    assert linears["w2"].in_channels == 14336


def test_no_matched_cell_is_an_error_that_names_the_cells():
    with pytest.raises(ToolkitError, match=r"q_proj.*wq, wk, wv, wo, w1, w2, w3"):
        lora.count_parameters({**INTERNLM_7B, "pet_config": {**PET, "target_modules": "q_proj"}})


@pytest.mark.parametrize("target, dead", [
    (r".*wq|.\*wk|.\*wv|.\*wo", r"'\.\\\\\*wk', .* match no cell"),  # markdown's escapes, copied along
    (".*wq|.*wk|.*wv|.*w0", r"'\.\*w0' matches no cell"),
    (".*q_proj|.*v_proj|.*wo", r"'\.\*q_proj', '\.\*v_proj' match no cell"),
    (".*wq|", None), (".*(wq|none)", None), (r".*w[q|]", None), (r".*w[]|q]", None),
    (r".*wq|.*w\||.*wk", r"'\.\*w\\\\\|' matches no cell"),
    (".*wq | .*wv", r"'\.\*wq ', ' \.\*wv' match no cell"),
    ([".*wq", ".*wk"], r"is a list, but MindFormers takes one pattern: write '\.\*wq\|\.\*wk'"),
])
def test_every_alternative_of_the_targets_matches_a_cell(target, dead):
    pet = {**PET, "target_modules": target}
    if dead is None:
        assert lora.count_parameters({**INTERNLM_7B, "pet_config": pet}).matched
        return
    with pytest.raises(ToolkitError, match=dead):
        lora.count_parameters({**INTERNLM_7B, "pet_config": pet})


@pytest.mark.parametrize("pattern", [
    ".*wq|.*wk", "a(b|c)|d", r"a\||b", "[|]|b", "[]|]|b", "[^]|]|b", r"\[a|b", ""])
def test_alternatives_mean_the_whole_pattern(pattern):
    """A text matches a pattern exactly when it matches one of its parts."""
    parts = lora.alternatives(pattern)
    for text in ("wq", "a|", "ab", "ac", "d", "b", "|", "]", "[a", "x", ""):
        assert bool(re.match(pattern, text)) == any(re.match(part, text) for part in parts), (parts, text)


def test_excluded_cells_are_not_counted():
    pet = {**PET, "exclude_layers": ["wk"]}
    assert lora.count_parameters({**INTERNLM_7B, "pet_config": pet}).matched == 96


def test_scaling_is_alpha_over_rank():
    assert lora.scaling(PET) == 2.0
