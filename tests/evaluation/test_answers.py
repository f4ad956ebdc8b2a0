"""The strict answer reader: what it reads, and everything it must not read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_internlm.data.choice import LETTERS, choice_output
from research_internlm.evaluation.answers import extract_letter


@pytest.mark.parametrize(("text", "letter"), [
    ("The right option is A.", "A"),
    ("The right option is B.Paris", "B"),
    (" \n The right option is D. Paris\nmore", "D"),
    ("The right option is B.Both A and C", "B"),  # docs/traps.md#letter-read-from-the-wrong-place
    ("The right option is B.The right option is C.", "B"),
    ("The right option is B.x\nThe right option is C.", "B"),  # run-on after the answer
    ("The right option is A.nswer", "A"),
    ("The right option is C", "C"),  # generation cut after the letter
    ("The right option is C \n", "C"),
    ("The right option is C\nbecause", "C"),
])
def test_reads_the_sentence(text, letter):
    assert extract_letter(text) == letter


@pytest.mark.parametrize("text", [
    "", " ", "The right option is ", "The right option is", "The",
    "The right option is E.", "The right option is T.", "The right option is b.",
    "The right option is An apple", "The right option is A good one", "The right option is A and B",
    "The right option is AB.", "The right option is (B).", "The right option is not B.",
    "The right option isB.", "the right option is B.", "The right options is B.",
    "The right option is\nB.",
    "B", "B.", "(B)", "B.Paris", "Answer: B", "正确答案是B.",
    "I think. The right option is B.", "The left option is A. The right option is B.",
    "Both A and C",
])
def test_never_guesses(text):
    assert extract_letter(text) is None


@given(st.sampled_from(LETTERS), st.text())
def test_reads_whatever_training_writes(letter, option):
    assert extract_letter(choice_output(letter, option)) == letter


@given(st.text())
def test_text_without_the_sentence_has_no_letter(text):
    if "The right option is" not in text:
        assert extract_letter(text) is None
