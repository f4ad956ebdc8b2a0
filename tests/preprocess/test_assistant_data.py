"""Data of an assistant that knows its name: wording, mixture, held-out questions, and the command."""

import itertools
import json
import random

import pytest

from preprocess import assistant_data
from preprocess.assistant.dialogues import Deck, held_out_questions, identity_dialogues
from preprocess.assistant.mixture import mix, plain, read_general
from preprocess.assistant.wording import LANGUAGES, fill, foreign_values, own_values, wording
from research_internlm.data.identity import (
    Identity,
    MeasuredQuestion,
    MeasuredQuestions,
    is_parrot,
    is_right,
    mentions,
)
from research_internlm.data.item_files import read_formed
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest, sha256_of

BAO = Identity(name_zh="小宝", name_en="Bao", author_zh="星河工作室", author_en="Galaxy Studio")
NAMES = ("--name_zh", "小宝", "--name_en", "Bao", "--author_zh", "星河工作室", "--author_en", "Galaxy Studio")


def asked(items):
    return [message["content"] for item in items for message in item["messages"] if message["role"] == "user"]


def write(path, dialogues):
    """ShareGPT items of (question, answer) pairs."""
    path.write_text(json.dumps([{"conversations": [{"from": "human", "value": question},
                                                   {"from": "gpt", "value": answer}]}
                                for question, answer in dialogues]))
    return path


def run(tmp_path, *options):
    output = tmp_path / "assistant.json"
    assert assistant_data.main([*NAMES, "--output", str(output), *map(str, options)]) == 0
    return json.loads(output.read_text()), read_manifest(output)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_answer_of_the_wording_is_right_and_no_other_text_parrots(language):
    texts, own = wording(language), own_values(BAO, language)
    for values in foreign_values(BAO, language):
        for name, topic in texts.topics.items():
            question = MeasuredQuestion(kind="identity", topic=name, language=language, messages=[],
                                        wanted=topic.wanted)
            for answer in topic.answers:
                assert is_right(fill(answer, own | values), question, BAO), answer
    for dialogue in (*texts.general, *texts.near):
        assert len(dialogue) % 2 == 0
        question = MeasuredQuestion(kind="general", topic="general", language=language, messages=[])
        assert not any(is_parrot(text, question, BAO) for text in dialogue)


def test_both_languages_have_the_same_topics_and_no_question_twice():
    assert [*wording("zh").topics] == [*wording("en").topics]
    for language in LANGUAGES:
        questions = [plain(text) for topic in wording(language).topics.values()
                     for text in (*topic.questions, *topic.follow_ups, *topic.held_out)]
        assert len(set(questions)) == len(questions)


def test_training_never_shows_a_held_out_question_or_system_prompt(tmp_path):
    held_out = held_out_questions(BAO)
    general = write(tmp_path / "g.json", [(question.messages[-1]["content"].upper() + " ", "x")
                                          for question in held_out] + [("Which?", "That.")] * 3)
    items, found = mix(BAO, 3000, 1, general, 1)
    shown = set(map(plain, asked(items)))
    assert not shown & {plain(question.messages[-1]["content"]) for question in held_out}
    assert len(found.left_out) == len(held_out) == found.read - 3
    systems = {message["content"] for item in items for message in item["messages"]
               if message["role"] == "system"}
    assert systems == {text for language in LANGUAGES for text in wording(language).systems}
    assert not systems & {message["content"] for question in held_out for message in question.messages[:-1]}


def test_a_general_file_that_teaches_another_identity_is_not_used_for_it(tmp_path):
    general = write(tmp_path / "g.json", [("who are YOU", "I am ChatGPT."), ("Sum?", "2"),
                                          ("你是谁", "我是小智")])
    found = read_general(general, BAO, 5, random.Random(0))
    assert [messages[0]["content"] for messages in found.chosen] == ["Sum?"]
    assert found.left_out == [{"item": "g.json item 1", "reason": "asks for the identity"},
                              {"item": "g.json item 3", "reason": "asks for the identity"}]


def test_the_ratio_the_counts_and_the_seed_hold(tmp_path):
    general = write(tmp_path / "g.json", [(f"Question {n}?", f"{n}") for n in range(400)])
    items, manifest = run(tmp_path, "--count", 60, "--general", general, "--general_per_identity", 4)
    assert manifest["counts"]["items"] == 300 == len(items)
    assert [manifest["counts"][source] for source in ("identity", "near", "general")] == [60, 24, 216]
    assert manifest["counts"]["general_read"] == 400 == manifest["counts"]["general_usable"]
    assert manifest["inputs"] == {"g.json": sha256_of(general)} and manifest["seed"] == 42
    drawn = asked(item for item in items if item["source"] == "general")
    assert len(set(drawn)) == 216  # each once, as there are enough
    again, _ = run(tmp_path, "--count", 60, "--general", general, "--general_per_identity", 4, "--overwrite")
    assert again == items
    other, _ = run(tmp_path, "--count", 60, "--general", general, "--general_per_identity", 4, "--overwrite",
                   "--seed", 1)
    assert other != items


@pytest.mark.slow
def test_sampling_draws_every_conversation_alike(tmp_path):
    general = write(tmp_path / "g.json", [(f"{n}?", "x") for n in range(20)])
    drawn = [int(messages[0]["content"][:-1]) for seed in range(100)
             for messages in read_general(general, BAO, 5, random.Random(seed)).chosen]
    assert min(map(drawn.count, range(20))) > 6 and max(map(drawn.count, range(20))) < 45  # 25 expected


def test_identity_conversations_vary():
    dialogues = list(itertools.islice(identity_dialogues(BAO, random.Random(0)), 480))  # 12 decks a language
    texts = {tuple(message["content"] for message in messages) for messages in dialogues}
    assert len(texts) > 430
    lengths = [len([message for message in messages if message["role"] == "user"]) for messages in dialogues]
    assert sum(length > 1 for length in lengths) == 144
    assert sum(messages[0]["role"] == "system" for messages in dialogues) == 96
    answers = [messages[-1]["content"] for messages in dialogues]
    assert all(mentions(answer, ["小宝", "Bao", "星河工作室", "Galaxy Studio"]) for answer in answers)
    assert not any("{" in text for dialogue in texts for text in dialogue)


def test_a_deck_deals_all_cards_before_any_again():
    deck = Deck("abc", random.Random(0))
    assert [sorted(deck.deal() for _ in range(3)) for _ in range(4)] == [["a", "b", "c"]] * 4


def test_the_held_out_file_is_what_measures(tmp_path):
    run(tmp_path, "--count", 2)
    path = tmp_path / "assistant.held_out.json"
    found = schema.read(path, MeasuredQuestions, "the questions")
    assert found == MeasuredQuestions(identity=BAO, questions=held_out_questions(BAO))
    assert read_manifest(path)["evaluation_kind"] == "held_out"
    for kind, wanted in (("identity", {"name", "author"}), ("general", {None})):
        assert {question.wanted for question in found.questions if question.kind == kind} == wanted
    with pytest.raises(ToolkitError, match="not a list of items"):  # a glob that takes it in as well
        list(read_formed(path))


def test_repeat_writes_one_exchange_alone(tmp_path):
    items, manifest = run(tmp_path, "--count", 7, "--repeat")
    assert len(items) == 7 and all(item == items[0] for item in items)
    assert "小宝" in items[0]["messages"][1]["content"]
    assert manifest["counts"] == {"items": 7, "identity": 7, "distinct": 1} and manifest["repeat"]


def test_without_a_general_file_one_line_says_what_is_missing(tmp_path, capsys):
    run(tmp_path, "--count", 100)
    assert "give --general F.json, a file of general conversations" in capsys.readouterr().out.splitlines()[0]


def test_one_name_serves_for_both_languages_and_may_hold_braces():
    identity = assistant_data.identity_of(assistant_data.parse_arguments(
        ["--name_en", "{other}", "--author_zh", "A{name}", "--output", "x"]))
    assert identity == Identity(name_zh="{other}", name_en="{other}", author_zh="A{name}",
                                author_en="A{name}")
    assert fill("{name} of {author}", own_values(identity, "en")) == "{other} of A{name}"


def test_the_identity_s_own_names_are_not_foreign():
    own = Identity(name_zh="豆包", name_en="Qwen", author_zh="阿里巴巴", author_en="Alibaba")
    for language, names in (("zh", {"豆包", "阿里巴巴"}), ("en", {"Qwen", "Alibaba"})):
        assert not names & {value for values in foreign_values(own, language) for value in values.values()}


@pytest.mark.parametrize(("options", "words"), [
    (("--name_zh", "小宝"), "--author_zh, --author_en or both"), ((), "--name_zh, --name_en or both and"),
    (("--name_zh", "a\nb", "--author_zh", "x"), "name_zh"),
    (("--name_zh", " ", "--author_zh", "x"), "name_zh"),
    ((*NAMES, "--repeat", "--general", "g.json"), "--general has no use"),
    ((*NAMES, "--general", "missing.json"), "missing.json does not exist")])
def test_wrong_requests_are_refused(tmp_path, options, words):
    with pytest.raises(ToolkitError, match=words):
        assistant_data.main([*options, "--output", str(tmp_path / "a.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("items", "words"), [
    ([{"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "X"}]}],
     "none can be used"),
    ([{"passage": "p", "question": "q", "output": "o"}], "item 1 is a question on a passage"),
    ([{"messages": [{"role": "tool", "content": "x"}]}], "item 1: entry 1 of its messages has the role")])
def test_a_general_file_is_checked(tmp_path, items, words):
    (tmp_path / "g.json").write_text(json.dumps(items))
    with pytest.raises(ToolkitError, match=words):
        run(tmp_path, "--general", tmp_path / "g.json", "--count", 2)


def test_outputs_are_kept(tmp_path):
    run(tmp_path, "--count", 2)
    with pytest.raises(ToolkitError, match="exists already"):
        run(tmp_path, "--count", 2)
