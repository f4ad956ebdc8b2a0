"""Reading multiple-choice items back from their rendered text."""

import csv
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_internlm.data.choice import (
    ChoiceQuestion,
    choice_input,
    choice_instruction,
    choice_output,
    parse_choice,
    parse_choice_input,
    parse_choice_output,
    read_choice,
)
from research_internlm.shared.errors import ToolkitError

# Text made of the pieces that can be mistaken for the format.
hostile = st.lists(st.sampled_from(["\nA.", "\nB.", "\nC.", "\nD.", "\n", "A.", " ", "x", "天"]),
                   max_size=6).map("".join)


def test_rendered_strings_are_the_contests():
    # docs/traps.md#contest-strings
    assert choice_instruction("law") == (
        "Here is a question about law, the correct answer is one of the options A/B/C/D. Please select the "
        "correct option and answer the question with 'The right option is'.")
    assert choice_input("q", ["a", "b", "c", "d"]) == "Question: q \nA.a\nB.b\nC.c\nD.d"
    assert choice_output("C") == "The right option is C."


def test_plain_item_has_one_reading():
    assert parse_choice_input("Question: Where?\nThere. \nA. Paris\nB.Rome\nC.\nD.x\ny") == [
        ("Where?\nThere.", [" Paris", "Rome", "", "x\ny"])]


@pytest.mark.parametrize("text", [
    "", "Question: q", "Question: q\nA.a\nB.b\nC.c\nD.d", "Question: q \nA.a\nC.c\nB.b\nD.d",
    "question: q \nA.a\nB.b\nC.c\nD.d", "Question:  \nB.b\nA.a\nC.c\nD.d", "Question: \nA.a\nB.b\nC.c\nD.d",
])
def test_other_text_has_no_reading(text):
    assert parse_choice_input(text) == []


def test_empty_question_is_read():
    assert parse_choice_input("Question:  \nA.a\nB.b\nC.c\nD.d") == [("", ["a", "b", "c", "d"])]


def test_all_readings_are_found():
    readings = parse_choice_input("Question: q \nA.a\nB.b\nB.c\nC.d\nD.e")
    assert readings == [("q", ["a", "b\nB.c", "d", "e"]), ("q", ["a\nB.b", "c", "d", "e"])]


@given(hostile, st.lists(hostile, min_size=4, max_size=4))
def test_what_was_rendered_is_among_the_readings_and_all_render_back(question, options):
    text = choice_input(question, options)
    readings = parse_choice_input(text)
    assert (question, options) in readings
    assert all(choice_input(*reading) == text for reading in readings)
    assert len({(q, *o) for q, o in readings}) == len(readings)


def test_unfinished_readings_cost_nothing():
    text = "Question: q\nD." + " \nA.\nB.\nC." * 500
    started = time.perf_counter()
    assert parse_choice_input(text) == []
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(("text", "expected"), [
    ("The right option is B.", ("B", "")),
    ("The right option is B.C.", ("B", "C.")),
    ("The right option is E.", None),
    ("The right option is B", None),
    (" The right option is B.", None),
])
def test_output_is_read_strictly(text, expected):
    assert parse_choice_output(text) == expected


def test_completed_output_settles_an_ambiguous_input():
    text = "Question: q \nA.a\nB.b\nB.c\nC.d\nD.e"
    assert parse_choice(text, "The right option is B.c") == ("q", ["a\nB.b", "c", "d", "e"], "B")
    assert parse_choice(text, "The right option is A.a") == ("q", ["a", "b\nB.c", "d", "e"], "A")


@pytest.mark.parametrize(("output", "said"), [
    ("The right option is B.", "2 readings"),
    ("The right option is D.e", "2 readings"),
    ("The right option is B.d", "no reading"),
    ("B", "is not 'The right option is X.'"),
])
def test_ambiguous_or_contradictory_items_are_refused(output, said):
    with pytest.raises(ToolkitError, match=said):
        parse_choice("Question: q \nA.a\nB.b\nB.c\nC.d\nD.e", output)


@given(hostile, st.lists(hostile, min_size=4, max_size=4), st.sampled_from("ABCD"), st.booleans())
def test_a_written_question_is_read_back(question, options, answer, completed):
    written = ChoiceQuestion("i", "Choose.", question, tuple(options), answer, "mmlu", "law", (("row", 3),))
    item = written.item(completed, id="i", ordering=2)
    assert list(item) == ["instruction", "input", "output", "id", "ordering", "source", "subject", "row",
                          "question", "options", "answer"]
    assert item["output"] == choice_output(answer, options["ABCD".index(answer)] if completed else "")
    assert read_choice(item, "elsewhere") == written


def test_foreign_texts_are_read_strictly():
    item = {"instruction": "Choose.", "input": choice_input("q", "wxyz"), "output": choice_output("B", "x"),
            "source": "a book"}
    assert read_choice(item, "item 4") == ChoiceQuestion("item 4", "Choose.", "q", tuple("wxyz"), "B")
    with pytest.raises(ToolkitError, match="no reading"):
        read_choice({**item, "output": "The right option is B.y"}, "")


@pytest.mark.real_data
def test_every_real_question_has_exactly_one_reading(real_data):
    count = 0
    for path in sorted(real_data.glob("*mmlu/*/*.csv")):
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        for row in [row[1:] for row in rows[1:]] if "cmmlu" in path.parts else rows:
            assert parse_choice_input(choice_input(row[0], row[1:5])) == [(row[0], row[1:5])]
            count += 1
    assert count > 600
