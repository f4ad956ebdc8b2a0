"""tokenizer.json and tokenizer_config.json of an export against SentencePiece itself."""

import json
import struct

import pytest
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

from research_internlm.checkpoints import tokenizer_json
from research_internlm.checkpoints.hf_tokenizer import tokenizer_texts
from research_internlm.data.chat_template import encode, render_messages
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT
from tests.helpers.tiny_vocabulary import write_vocabulary

TEXTS = ["The right option is A.", "  two  spaces\n\n中文，\t", "", " ", "x" * 50, "🐉 émigré Ｅ",
         "<|User|>:x", "(((((((" * 5, "　　", "\r\n\r\n\n"]


@pytest.fixture(scope="module", params=["internlm", "internlm2", "internlm3"])
def model_file(request, tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "tokenizer.model", request.param)


def files_of(path):
    return tokenizer_texts(path, {"vocab_size": load_tokenizer(path).vocab_size()})


def assert_same_ids(path, texts):
    processor = load_tokenizer(path)
    tokenizer = Tokenizer.from_str(files_of(path)["tokenizer.json"])
    for text, ids in zip(texts, processor.encode(texts), strict=True):
        assert tokenizer.encode(text).ids == [processor.bos_id(), *ids], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == processor.decode(ids)


def test_tokenizer_json_gives_the_ids_of_sentencepiece(model_file):
    lines = [line for path in (ROOT / "docs").glob("*.md") for line in path.read_text().splitlines()]
    assert_same_ids(model_file, [*TEXTS, *(line for line in lines if "<" not in line)])


def test_the_demo_s_vocabulary_is_of_the_kind_that_is_exported(demo_data):
    items = json.loads((demo_data / "base_corpus.json").read_text())
    assert_same_ids(demo_data / "tokenizer.model", [*TEXTS, *sorted({text for item in items
                                                                     for text in item.values()})])


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("family", ["internlm", "internlm2"])
def test_real_vocabularies_give_the_ids_of_sentencepiece(real_data, family):
    questions = json.loads(next((real_data / "squad").glob("*.json")).read_text())["data"]
    texts = [paragraph["context"] for article in questions for paragraph in article["paragraphs"]][:400]
    texts += [line for path in sorted((real_data / "cmmlu").rglob("*.csv"))[:8]
              for line in path.read_text(encoding="utf-8-sig").splitlines()]
    assert_same_ids(real_data / "tokenizers" / f"{family}.model", [*TEXTS, *texts])


def more_pieces(texts):
    """Serialized pieces of a low score; appended to a serialized model they are its last ones."""
    encoded = [text.encode() for text in texts]
    inner = [b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -1e6) for text in encoded]
    return b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in inner)


@pytest.fixture(scope="module")
def internlm3(tmp_path_factory):
    """A file of the form of InternLM3's: 128,111 pieces, none of them a special token but the first three."""
    path = write_vocabulary(tmp_path_factory.mktemp("internlm3") / "tiny.model", None)
    count = len(sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes()).pieces)
    texts = (f"\u2581{place}\ue000" for place in range(count, 128111))
    path.write_bytes(path.read_bytes() + more_pieces(texts))
    return path


def test_internlm3_s_added_tokens_are_put_behind_the_pieces(internlm3):
    processor = load_tokenizer(internlm3)
    special = special_tokens(processor)
    assert (special.family, special.vocab_size, special.stop_ids) == ("internlm3", 128512, (128131, 2))
    assert dict(special.ids) == {"unk": 0, "bos": 1, "eos": 2, "end_of_assistant": 128131,
                                 "end_of_user": 128131, "turn_start": 128132}
    assert dict(special.tool_ids) == {"action_start": 128130, "action_end": 128129, "plugin": 128127}
    assert [processor.id_to_piece(id_) for id_ in (128111, 128128)] == ["</conclude>", "<|interpreter|>"]
    assert processor.decode([*processor.encode("Hi"), 128131]) == "Hi"
    assert 128131 not in processor.encode("a <|im_end|> in a text is text")


@pytest.mark.slow
def test_internlm3_s_export_lists_its_added_tokens(internlm3):
    files = files_of(internlm3)
    entries = json.loads(files["tokenizer_config.json"])["added_tokens_decoder"]
    special = {int(id_) for id_, entry in entries.items() if entry["special"]}
    assert special == {0, 1, 2, *range(128111, 128133)}
    tokenizer = Tokenizer.from_str(files["tokenizer.json"])
    assert tokenizer.get_vocab_size() == 128133
    assert tokenizer.encode("<|im_start|>user\nHi").ids[:2] == [1, 128132]
    assert json.loads(files["generation_config.json"])["eos_token_id"] == [128131, 2]


def test_another_number_of_pieces_is_not_internlm3_s(internlm3, tmp_path):
    (tmp_path / "x.model").write_bytes(internlm3.read_bytes() + more_pieces(["one more"]))
    with pytest.raises(ToolkitError, match="tokens of this 128112-piece vocabulary are not Intern"):
        load_tokenizer(tmp_path / "x.model")


def test_of_equal_merges_the_longer_left_part_goes_first():
    """The order by hand; by the order of ids alone, `a` + `aa` would come before `aa` + `a`."""
    model = sentencepiece_model_pb2.ModelProto()
    for piece, score in (("a", -9), ("aa", 0), ("b", -9), ("aaa", -1), ("ab", -1)):
        model.pieces.add(piece=piece, score=score)
    assert tokenizer_json.merges(model) == [("a", "a"), ("aa", "a"), ("a", "aa"), ("a", "b")]


@pytest.mark.parametrize(("family", "expected"), [
    ("internlm", {0: "<unk>", 1: "<s>", 2: "</s>", 13: "<0x0A>", -2: "<TOKENS_UNUSED_139>",
                  -1: "<TOKENS_UNUSED_140>"}),
    ("internlm2", {0: "<unk>", 1: "<s>", 2: "</s>", -1: "<|im_start|>", -2: "<|im_end|>",
                   -3: "<|action_start|>", -4: "<|action_end|>", -6: "<|plugin|>"})])
def test_special_tokens_are_in_added_tokens_decoder(tmp_path, family, expected):
    path = write_vocabulary(tmp_path / "tokenizer.model", family)
    config = json.loads(files_of(path)["tokenizer_config.json"])
    size = load_tokenizer(path).vocab_size()
    entries = {int(id_): entry for id_, entry in config["added_tokens_decoder"].items()}
    assert {id_: entry["content"] for id_, entry in entries.items() if entry["special"]} == {
        place % size: text for place, text in expected.items()}
    assert not any(entry["normalized"] or entry["lstrip"] or entry["rstrip"] for entry in entries.values())
    assert config["add_prefix_space"] is False


def test_the_template_s_text_becomes_the_ids_of_training(model_file):
    jinja2 = pytest.importorskip("jinja2")
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    files = files_of(model_file)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Do it.\nNow \n"},
                {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "再"}]
    # As transformers builds it: utils/chat_template_utils.py.
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        json.loads(files["tokenizer_config.json"])["chat_template"])
    prompt = template.render(messages=messages, add_generation_prompt=True)
    ids = Tokenizer.from_str(files["tokenizer.json"]).encode(prompt, add_special_tokens=False).ids
    assert ids == encode(render_messages(messages, special.family), processor, special)[0]


@pytest.mark.parametrize(("settings", "reason"), [
    ({"model_type": "unigram"}, "its model is unigram, not bpe"),
    ({"add_dummy_prefix": True}, "it puts a space before every text"),
    ({"remove_extra_whitespaces": True}, "it removes spaces"),
    ({"normalization_rule_name": "nmt_nfkc"}, r"it replaces characters \(nmt_nfkc\)"),
    ({"model_type": "unigram", "add_dummy_prefix": True}, "unigram.*; it puts a space"),
])
def test_a_vocabulary_that_other_tools_cannot_reproduce_is_refused(tmp_path, settings, reason):
    path = write_vocabulary(tmp_path / "tokenizer.model", **settings)
    with pytest.raises(ToolkitError, match=f"tools cannot give the ids .*{reason}.*without --model_file"):
        files_of(path)
