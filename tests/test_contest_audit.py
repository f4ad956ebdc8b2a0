"""The loss audit's kinds of label token, and what its numbers say; the model part is in test_training.py."""

import numpy as np
import pytest

from research_internlm.contest import audit
from research_internlm.label_kinds import label_kinds
from research_internlm.prompts import END_MARKERS, choice_output
from research_internlm.tokens import load_tokenizer, special_tokens


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def vocabulary(request, real_data):
    processor = load_tokenizer(real_data / "tokenizers" / f"{request.param}.model")
    return processor, special_tokens(processor)


def kinds_of(vocabulary, answer, end="eoa"):
    processor, special = vocabulary
    ends = [special[role] for role in END_MARKERS[special.family][end]]
    return label_kinds([*processor.encode(answer), *ends], processor, special)


@pytest.mark.real_data
def test_an_exam_answer_is_told_apart_token_by_token(vocabulary):
    ends = {"internlm": ["<eoa>", "newline", "</s>"], "internlm2": ["<eoa>"]}[vocabulary[1].family]
    # The | right | option | is | C | . | lead
    assert kinds_of(vocabulary, "The right option is C. lead") == [
        *["template words"] * 4, "letter", "full stop", "option text", *ends]
    assert kinds_of(vocabulary, choice_output("A"), "eos") == [
        *["template words"] * 4, "letter", "full stop", "</s>"]


@pytest.mark.real_data
@pytest.mark.parametrize("option", ["", "中文 选项", "A.B", "😀 \n x", "  two"])
def test_every_token_has_a_kind_and_one_is_the_letter(vocabulary, option):
    kinds = kinds_of(vocabulary, choice_output("B", option))
    assert kinds.count("letter") == 1
    assert len(kinds) == len(vocabulary[0].encode(choice_output("B", option))) + len(
        END_MARKERS[vocabulary[1].family]["eoa"])
    assert kinds[:4] == ["template words"] * 4


@pytest.mark.real_data
def test_another_answer_is_other_text(vocabulary):
    assert set(kinds_of(vocabulary, "Denver Broncos", "eos")) == {"other text", "</s>"}


def test_means_and_shares_by_hand():
    kinds = [["letter", "<eoa>"], ["letter", "full stop", "<eoa>"]]
    found = audit.summarize(kinds, [np.array([1.0, 6.0]), np.array([2.0, 0.0, 3.0])])
    assert found == {"letter": {"count": 2, "mean": 1.5, "share": 0.25},
                     "full stop": {"count": 1, "mean": 0.0, "share": 0.0},
                     "<eoa>": {"count": 2, "mean": 4.5, "share": 0.75}}


def test_the_end_marker_that_stays_at_its_base_loss_is_named_with_the_alternatives():
    def kinds(eoa):
        return {"letter": {"count": 1, "mean": 0.2, "share": 0.02},
                "<eoa>": {"count": 1, "mean": eoa, "share": 0.98}}

    base = {**kinds(11.5), "letter": {"count": 1, "mean": 1.4, "share": 0.1}}
    assert audit.unlearnt(kinds(11.2), base) == ["<eoa>"]
    assert audit.unlearnt(kinds(0.4), base) == []
    assert audit.unlearnt(kinds(0.05), {**base, "<eoa>": {"count": 1, "mean": 0.05, "share": 0}}) == []
    result = {"unlearnt": ["<eoa>"], "base": {"kinds": base},
              "tuned": {"kinds": kinds(11.2), "end_markers": {"eoa": 11.2, "eos": 2.5}}}
    (warning,) = audit.warnings(result)
    for words in ("<eoa> did not improve: 11.200 nats, base 11.500", "98%", "--end_marker eos", "2.500"):
        assert words in warning
