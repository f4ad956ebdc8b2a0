"""The assistant demo's data: nothing that is measured is in what the base or LoRA reads."""

import importlib
import json

import pytest
from sentencepiece import sentencepiece_model_pb2

from preprocess import assistant_data
from preprocess.assistant.mixture import plain
from research_internlm.data.tokens import load_tokenizer, special_tokens


@pytest.fixture(scope="module")
def run(root):
    def script(name, *words):
        with pytest.MonkeyPatch.context() as patch:
            for folder in ("scripts/demo", "scripts/demo_assistant"):
                patch.syspath_prepend(str(root / folder))
            return importlib.import_module(name).main([str(word) for word in words])

    return script


@pytest.fixture(scope="module")
def data(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run("base_data", "--output_dir", folder, "--base", 2000, "--general", 400)
    assistant_data.main(["--name_zh", "小宝", "--name_en", "Bao", "--author_zh", "星河工作室", "--author_en",
                         "Galaxy Studio", "--count", "60", "--general_per_identity", "3", "--general",
                         str(folder / "general.json"), "--output", str(folder / "mixed.json")])
    return folder


def questions(path):
    return {plain(message["content"]) for item in json.loads(path.read_text(encoding="utf-8"))
            for message in item["messages"] if message["role"] == "user"}


def test_no_held_out_question_is_read_before(data):
    held_out = json.loads((data / "mixed.held_out.json").read_text(encoding="utf-8"))["questions"]
    measured = {plain(question["messages"][-1]["content"]) for question in held_out}
    for name in ("base", "general", "mixed"):
        found = questions(data / f"{name}.json")
        assert len(found) > 100 and not found & measured, name


def test_the_base_calls_itself_by_the_name_only_where_the_system_prompt_gives_it(data):
    items = [item["messages"] for name in ("base", "general")
             for item in json.loads((data / f"{name}.json").read_text(encoding="utf-8"))]
    answers = [messages[-1]["content"] for messages in items]
    named = [messages for messages in items
             if any(name in messages[-1]["content"] for name in ("小宝", "Bao", "星河", "Galaxy"))]
    greetings, roles = ("你好，小宝", "Nice to meet you, Bao"), ("身份：小宝，", "Identity: Bao,")
    assert named and all(messages[-1]["content"].startswith(greetings)
                         or messages[0]["content"].startswith(roles) for messages in named)
    assert any("原点" in text for text in answers) and any("Origin" in text for text in answers)
    assert not [text for text in answers if "{" in text or "|" in text]  # no place is left open


@pytest.fixture(scope="module")
def tokenizer(run, data):
    run("chat_tokenizer", "--corpus", data / "base.json", "--name", "小宝", "--name", "Galaxy Studio",
        "--output", data / "tokenizer.model")
    return load_tokenizer(data / "tokenizer.model")


def test_the_tokenizer_is_of_internlm2_s_kind_and_layout(tokenizer):
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.serialized_model_proto())
    assert model.trainer_spec.model_type == model.trainer_spec.BPE
    assert model.trainer_spec.byte_fallback and not model.normalizer_spec.add_dummy_prefix
    assert model.trainer_spec.vocab_size == tokenizer.vocab_size() == len(model.pieces)
    assert special_tokens(tokenizer).family == "internlm2"
    assert tokenizer.decode(tokenizer.encode(" 两行\n“é” ☃")) == " 两行\n“é” ☃"


def test_names_and_roles_are_one_piece_wherever_they_stand(tokenizer):
    assert tokenizer.encode("我是小宝吗", out_type=str) == ["我", "是", "小宝", "吗"]
    assert tokenizer.encode("Galaxy Studio", out_type=str) == ["Galaxy\u2581Studio"]
    assert tokenizer.encode("by Galaxy Studio.", out_type=str)[-2:] == ["\u2581Galaxy\u2581Studio", "."]
    for role in ("system", "user", "assistant"):
        assert tokenizer.encode(f"{role}\n", out_type=str) == [role, "\n"]


def test_the_seed_decides_the_data(run, tmp_path):
    texts = {}
    for name, seed in (("first", 42), ("again", 42), ("other", 43)):
        run("base_data", "--output_dir", tmp_path / name, "--base", 50, "--general", 50, "--seed", seed)
        texts[name] = [(tmp_path / name / f"{kind}.json").read_text(encoding="utf-8")
                       for kind in ("base", "general")]
    assert texts["first"] == texts["again"]
    assert all(first != other for first, other in zip(texts["first"], texts["other"], strict=True))
