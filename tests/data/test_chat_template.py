"""Prompts, special tokens and records, with golden masks readable by eye.

The vocabulary of these tests has one id per character, so a row can be checked by reading it.
"""

from types import MappingProxyType

import numpy as np
import pytest
import sentencepiece

from preprocess.exam.exam_csv import domain_of
from research_internlm.data.chat_template import encode, prompt_version, render_chat
from research_internlm.data.choice import answer_position, choice_input, choice_instruction, choice_output
from research_internlm.data.items import render_item, render_squad
from research_internlm.data.rows import fits, make_records, record_length
from research_internlm.data.tokens import IGNORE_ID, SpecialTokens, load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError


class Characters:
    """One id per character, with SentencePiece's dummy prefix shown as '_'."""

    def encode(self, text):
        return [ord(character) for character in "_" + text]


SPECIAL = SpecialTokens(2000, MappingProxyType(
    {"bos": 1001, "eos": 1002, "end_of_user": 1003, "end_of_assistant": 1004, "newline": 1010}))
NAMES = {1001: "«s»", 1002: "«/s»", 1003: "«eoh»", 1004: "«eoa»", 1010: "«nl»"}


def spell(ids):
    return "".join(NAMES.get(i) or chr(i) for i in ids)


def split(segments):
    """(unsupervised text, supervised text), each spelled out."""
    ids, supervised = encode(segments, Characters(), SPECIAL)
    return (spell(i for i, s in zip(ids, supervised, strict=True) if not s),
            spell(i for i, s in zip(ids, supervised, strict=True) if s))


def test_chat_sample_is_the_contest_s_token_sequence():
    prompt, answer = split(render_chat("Do it.", "Q", "The right option is B."))
    assert prompt == "«s»_<|User|>:Do it.\nQ«eoh»«nl»_<|Bot|>:"
    assert answer == "_The right option is B.«eoa»«nl»«/s»"


def test_an_empty_input_adds_no_newline():
    assert split(render_chat("Do it.", "", "Y"))[0] == "«s»_<|User|>:Do it.«eoh»«nl»_<|Bot|>:"


def test_the_inference_prompt_is_the_unsupervised_prefix_of_training():
    for training, inference in ((render_chat("I", "x", "y"), render_chat("I", "x")),
                                (render_squad("P", "Q", "A"), render_squad("P", "Q"))):
        assert training[:len(inference)] == inference
        assert not any(segment.supervised for segment in inference)
        assert all(segment.supervised for segment in training[len(inference):])


def test_squad_wording_is_upstream_s():
    prompt, answer = split(render_squad("P", "Q?", "A"))
    assert prompt == ("«s»_Read the passage and answer the question below.\n\n### Instruction:\nP\n\n"
                      "### Input:\nQ?\n\n### Response:")
    assert answer == "_A«/s»"


def test_items_choose_their_prompt_by_their_fields():
    assert render_item({"passage": "P", "question": "Q", "output": "A"}) == render_squad("P", "Q", "A")
    assert render_item({"instruction": "I", "input": "", "output": "O"}) == render_chat("I", "", "O")


def test_multiple_choice_strings_are_the_official_converter_s():
    # docs/traps.md#contest-strings: the space before the first newline, none after the dot
    assert choice_input("Why?", ["a", "b", "c", "d"]) == "Question: Why? \nA.a\nB.b\nC.c\nD.d"
    assert choice_output("C") == "The right option is C."
    assert choice_output("C", "text") == "The right option is C.text"
    assert choice_instruction(domain_of("high_school_us_history_test.csv")) == (
        "Here is a question about high school us history, the correct answer is one of the options A/B/C/D. "
        "Please select the correct option and answer the question with 'The right option is'.")


@pytest.mark.parametrize(("name", "domain"), [
    ("agronomy.csv", "agronomy"), ("college_physics_val.csv", "college physics"),
    ("test_theory_dev.csv", "test theory")])
def test_domain_is_the_file_name_without_split(name, domain):
    assert domain_of(name) == domain


def test_answer_position_finds_the_four_letters():
    prefix, letters = answer_position(["w", "x", "y", "z"], Characters())
    assert spell(prefix) == "_The right option is "
    assert spell(letters) == "ABCD"


def test_answer_position_refuses_a_vocabulary_that_merges_letters():
    class Words:
        def encode(self, text):
            return [7, 8, 9] if text.startswith("The right option is") else []

    with pytest.raises(ToolkitError, match="--mode generate"):
        answer_position(["w", "x", "y", "z"], Words())


# The record rule. L = 6; samples of n tokens, the last two supervised.


@pytest.mark.parametrize(("count", "ids", "labels"), [
    (4, [11, 12, 13, 14, 0, 0], [-100, -100, 13, 14, -100, -100]),
    (5, [11, 12, 13, 14, 15, 0], [-100, -100, -100, 14, 15, -100]),
    (6, [11, 12, 13, 14, 15, 16], [-100, -100, -100, -100, 15, 16]),
])
def test_a_sample_that_fits_keeps_its_answer_whole(count, ids, labels):
    sample = list(range(11, 11 + count))
    record = make_records([(sample, [False] * (count - 2) + [True, True])], 6)
    assert record["input_ids"].tolist() == [ids]
    assert record["labels"].tolist() == [labels]
    assert record["input_ids"].dtype == record["labels"].dtype == np.int32


def test_a_sample_that_does_not_fit_or_teaches_nothing_is_never_a_row():
    assert fits(6, 6) and not fits(7, 6)
    with pytest.raises(ValueError, match="7 tokens"):
        make_records([(range(7), [True] * 7)], 6)
    with pytest.raises(ValueError, match="no supervised"):
        make_records([([1, 2], [False, False])], 6)


def test_rows_are_one_longer_than_seq_length():
    assert (record_length(1024), record_length(1023)) == (1025, 1024)
    assert IGNORE_ID == -100


def test_internlm_ids_are_the_real_vocabulary_s(real_data):
    special = special_tokens(load_tokenizer(real_data / "tokenizers" / "internlm.model"))
    assert dict(special.ids) == {"unk": 0, "bos": 1, "eos": 2, "newline": 13, "end_of_assistant": 103166,
                                 "end_of_user": 103167}
    assert special.manifest_entry() == {"unk": 0, "bos": 1, "eos": 2, "newline": 13, "eoa": 103166,
                                        "eoh": 103167, "vocab_size": 103168}
    assert special.vocab_size == 103168
    assert special.stop_ids == (103166, 2)


def test_a_vocabulary_with_other_special_ids_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three"] * 9), model_prefix=str(tmp_path / "other"), vocab_size=280,
        byte_fallback=True, hard_vocab_limit=False, bos_id=0, eos_id=1, unk_id=2, minloglevel=2)
    with pytest.raises(ToolkitError, match=r"other.model: .*id 1 is '</s>' where '<s>' \(bos\) is expected"):
        load_tokenizer(tmp_path / "other.model")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(ToolkitError, match="does not exist"):
        load_tokenizer(path)
    path.write_text("not a model")
    with pytest.raises(ToolkitError, match="not a SentencePiece model"):
        load_tokenizer(path)


@pytest.mark.parametrize("family", ["internlm", "internlm2"])
def test_the_other_end_marker_changes_only_the_end(family):
    upstream, other = (render_chat("I", "x", "y", family, end) for end in ("eoa", "eos"))
    assert [segment.content for segment in other if segment.supervised] == ["y", "eos"]
    start = [segment for segment in upstream if not segment.supervised]
    assert [segment for segment in other if not segment.supervised] == start
    assert prompt_version() == "internlm-chat-1" != prompt_version("eos")


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_damaged_vocabulary_is_named(demo_data, tmp_path, place):
    """A byte that is not UTF-8 within a piece; SentencePiece's own message then cannot be decoded."""
    data = bytearray((demo_data / "tokenizer.model").read_bytes())
    letters = [index for index in range(int(len(data) * place), len(data)) if 97 <= data[index] < 123]
    for index in letters[:40]:
        data[index] = 0xB0
    (tmp_path / "tokenizer.model").write_bytes(bytes(data))
    with pytest.raises(ToolkitError, match="is not a SentencePiece model"):
        load_tokenizer(tmp_path / "tokenizer.model")
