"""Reading test files and counting right letters."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_internlm.data.choice import ChoiceQuestion, choice_input, choice_instruction, choice_output
from research_internlm.evaluation.intervals import wilson_interval
from research_internlm.evaluation.mmlu import ChoiceResult, load_test_items, score
from research_internlm.shared.errors import ToolkitError


def entry(**changes):
    options = ["Lima", "Paris", "Rome", "Oslo"]
    return {
        "instruction": choice_instruction("geography"), "input": choice_input("Capital of France?", options),
        "output": choice_output("B", "Paris"), "source": "MMLU", "subject": "geography", "split": "test",
        "question": "Capital of France?", "options": options, "answer": "B", "id": "q1", **changes,
    }


def without(fields, item):
    return {key: value for key, value in item.items() if key not in fields}


def alpaca(item):
    return {key: item[key] for key in ("instruction", "input", "output")}


@pytest.fixture
def load(tmp_path):
    def load(value):
        path = tmp_path / "test_alpaca_format.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return load_test_items(path)
    return load


def test_structured_item(load):
    question, = load([entry()])
    assert question == ChoiceQuestion("q1", entry()["instruction"], "Capital of France?",
                                      ("Lima", "Paris", "Rome", "Oslo"), "B", "MMLU", "geography",
                                      (("split", "test"),))
    assert question.input == entry()["input"]


def test_output_without_the_options_text_is_fine(load):
    assert load([entry(output="The right option is B.")])[0].answer == "B"


def test_item_without_an_id_is_named_by_its_place(load):
    assert [item.id for item in load([entry(), without(["id"], entry())])] == ["q1", "item 2"]


def test_alpaca_fields_alone_are_read_back(load):
    item, = load([alpaca(entry())])
    assert (item.options, item.answer, item.source) == (("Lima", "Paris", "Rome", "Oslo"), "B", "unknown")


def test_structured_fields_settle_what_the_text_leaves_open(load):
    options = ["a\nB.b", "c", "d", "e"]
    text = choice_input("q", options)
    item = entry(question="q", options=options, input=text, output="The right option is D.", answer="D")
    assert load([item])[0].options == tuple(options)
    ambiguous = entry(input="Question: q \nA.a\nB.b\nB.c\nC.d\nD.e", output="The right option is D.")
    with pytest.raises(ToolkitError, match=r"item 2: .*2 readings"):
        load([entry(), alpaca(ambiguous)])


@pytest.mark.parametrize(("value", "said"), [
    ("", "is empty"),
    ("{", "is not JSON"),
    ({}, "is not a list of items"),
    ([], "is not a list of items"),
    (["x"], "item 1: is str"),
    ([entry(), without(["subject"], entry())], "item 2: lacks subject"),
    ([without(["output"], entry())], "item 1: lacks output"),
    ([entry(source=3)], "source must be text"),
    ([entry(answer="E")], "answer is 'E'"),
    ([entry(answer=["B"])], "answer must be text"),
    ([entry(options=["a", "b", "c"])], "not a list of 4 texts"),
    ([entry(options=["a", "b", "c", 4])], "not a list of 4 texts"),
    ([entry(options=["Paris", "Lima", "Rome", "Oslo"])], "not its question and options"),
    ([entry(output="The right option is A.Lima")], "disagrees with its answer B"),
    ([entry(output="The right option is B.Lima")], "disagrees with its answer B"),
    ([alpaca(entry(output="B"))], "is not 'The right option is X.'"),
])
def test_bad_files_are_named(load, value, said):
    with pytest.raises(ToolkitError, match=said):
        load(value)


def result(letter, answer="A", source="MMLU", subject="law", name="i", text=""):
    return ChoiceResult(ChoiceQuestion(name, "", "", tuple("abcd"), answer, source, subject), letter, text)


def test_score_counts_every_answer():
    scored = score([
        result("A"), result("B"), result(None, name="m3", text="Both A and C"),
        result("A", source="CMMLU"), result("D", answer="D", source="CMMLU", subject="art"),
    ], "held_out")
    # Counted by hand: MMLU/law 1 of 3, CMMLU/law 1 of 1, CMMLU/art 1 of 1.
    def counts(group):
        return group["total"], group["correct"], group["unmatched"], group["accuracy"]
    assert scored["evaluation_kind"] == "held_out"
    assert counts(scored["overall"]) == (5, 3, 1, 0.6)
    assert {name: counts(group) for name, group in scored["per_source"].items()} == {
        "CMMLU": (2, 2, 0, 1.0), "MMLU": (3, 1, 1, 1 / 3)}
    assert {name: counts(group) for name, group in scored["per_category"].items()} == {
        "CMMLU/art": (1, 1, 0, 1.0), "CMMLU/law": (1, 1, 0, 1.0), "MMLU/law": (3, 1, 1, 1 / 3)}
    assert scored["unmatched_answers"] == [{"id": "m3", "text": "Both A and C"}]


def test_unmatched_is_wrong_even_where_the_key_is_c():
    assert score([result(None, answer="C")], "held_out")["overall"]["correct"] == 0


def test_score_carries_the_interval():
    scored = score([result("A")] * 8 + [result("B")] * 2, "held_out")
    assert scored["overall"]["interval_95"] == pytest.approx([0.4902, 0.9433], abs=5e-5)


def test_nothing_to_score_is_an_error():
    with pytest.raises(ToolkitError, match="no answered questions"):
        score([], "held_out")


@pytest.mark.parametrize(("correct", "total", "low", "high"), [
    # By hand with z = 1.95996, z^2 = 3.84146. 8 of 10: (0.8 + 0.19207 +- 1.95996 sqrt(0.016 + 0.0096037))
    # / 1.384146. All of 20: 20 / (20 + z^2) to 1. None of 20: 0 to z^2 / (20 + z^2).
    (8, 10, 0.490162, 0.943318),
    (20, 20, 0.838875, 1.0),
    (0, 20, 0.0, 0.161125),
])
def test_wilson_golden(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(1, 30000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_its_equation(pair):
    correct, total = pair
    share = correct / total
    for bound in wilson_interval(correct, total):
        # Wilson 1927: the bounds are where |share - p| = z sqrt(p (1 - p) / n).
        assert abs(share - bound) == pytest.approx(
            1.959963984540054 * math.sqrt(bound * (1 - bound) / total), abs=1e-6)
