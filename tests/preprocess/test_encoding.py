"""Encoding in parts gives the ids of whole texts; the argument for it is checked against the vocabulary."""

import csv
import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.mindrecord import encoding
from research_internlm.data.chat_template import encode
from research_internlm.data.items import render_item
from research_internlm.data.tokens import load_tokenizer, special_tokens
from tests.helpers.alpaca import encode_items, item, upstream_ids

TEXTS = st.lists(st.one_of(
    st.sampled_from([" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u2581", "\nA.", "\nB.", ".", "None of",
                     "the", " the", "以上都对", "é", "\0", "<s>", "<|User|>:", "<eoh>", "😀", "}\n"]),
    st.text(max_size=6)), max_size=14).map("".join)


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def real_processor(request, real_data):
    return load_tokenizer(real_data / "tokenizers" / f"{request.param}.model")


def trained(model_type, **options):
    """A small vocabulary over text in which pieces cross newlines and full stops."""
    lines = ["the cat. the dog. a cat and the dog", "A.the cat B.the dog C.none", "of the above, none"]
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20), model_writer=writer, model_type=model_type, vocab_size=330,
        hard_vocab_limit=False, minloglevel=2, **{"byte_fallback": True, "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity"} | options)
    return sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())


def assert_same_ids(encoder, processor, texts):
    encoded = encoder.encode(texts)
    for text in texts:
        assert np.frombuffer(encoded[text], np.int32).tolist() == processor.encode(text), repr(text)


@pytest.mark.real_data
def test_any_text_gets_the_processor_s_ids(real_processor):
    encoder = encoding.Encoder(real_processor, 2)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(TEXTS, min_size=1, max_size=8))
    def check(texts):
        assert_same_ids(encoder, real_processor, texts)

    check()


@pytest.mark.real_data
def test_the_real_vocabularies_are_split(real_processor):
    splitter = encoding.Splitter(real_processor)
    lines = splitter.lines("Question: a b \nA.one\nB.two\n")
    assert list(filter(None, lines)) == ["Question: a b \n", "A.one\n", "B.two\n"]
    assert list(filter(None, splitter.words(" two words, x"))) == [" two", " words,", " x"]
    assert splitter.words(" two words,  and\t tabs\n x") == [" two", " words,", "  and\t tabs\n x"]


@pytest.mark.parametrize(("model_type", "options", "split"), [
    ("bpe", {}, True), ("bpe", {"add_dummy_prefix": False}, True),
    ("bpe", {"byte_fallback": False}, False), ("bpe", {"remove_extra_whitespaces": True}, False),
    ("bpe", {"normalization_rule_name": "nmt_nfkc"}, False), ("unigram", {}, False),
    ("bpe", {"treat_whitespace_as_suffix": True}, False),
    ("bpe", {"split_by_whitespace": False}, True),
    ("bpe", {"user_defined_symbols": ["a b", "\nA"]}, True)])
def test_other_vocabularies_get_their_own_ids(model_type, options, split):
    processor = trained(model_type, **options)
    assert (len(encoding.Splitter(processor).lines("x\nB")) == 2) is split

    encoder = encoding.Encoder(processor, 2)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(TEXTS | st.text(alphabet="abcdeht AB.\n ", max_size=40), min_size=1, max_size=8))
    def check(texts):
        assert_same_ids(encoder, processor, texts)

    check()


def test_no_cut_inside_a_piece_of_the_vocabulary():
    splitter = encoding.Splitter(trained("bpe", user_defined_symbols=["a b", "\nA"]))
    assert splitter.words("x a b x") == ["x", " a b", " x"]
    assert splitter.lines("x\nA\nB") == ["x\nA\n", "B"]


def test_small_caches_change_nothing(monkeypatch, demo_data):
    monkeypatch.setattr(encoding, "_CACHED_TEXTS", 5)
    monkeypatch.setattr(encoding, "BLOCK_ITEMS", 3)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(demo_data / "tokenizer.model"))
    special = special_tokens(processor)
    items = [item(f"Number {n}?") for n in [*range(20), *range(20)]]
    for source, (ids, flags) in zip(items, encode_items(items, processor, special, 1), strict=True):
        assert (ids.tolist(), flags.tolist()) == encode(render_item(source), processor, special)


@pytest.mark.slow
@pytest.mark.real_data
def test_ids_equal_upstream_s_on_all_real_questions(real_data):
    processor = load_tokenizer(real_data / "tokenizers" / "internlm.model")
    items = []
    for path in sorted(real_data.glob("*mlu/*/*.csv")):
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row[-6:] for row in csv.reader(file)]
        items += [item(row[0], row[1:5], row[5]) for row in rows if row[5] in list("ABCD")]
        items += [item(row[0], row[4:0:-1], "DCBA"["ABCD".index(row[5])]) for row in rows[::15]
                  if row[5] in list("ABCD")]
    assert len(items) > 12_496  # all, and some with their options in reverse
    samples = encode_items(items, processor, special_tokens(processor), 2)
    for source, (ids, supervised) in zip(items, samples, strict=True):
        expected, answer_start = upstream_ids(source, processor, 103167, 103166)
        assert ids.tolist() == expected
        assert np.flatnonzero(supervised).tolist() == list(range(answer_start, len(expected)))
