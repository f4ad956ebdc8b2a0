"""Whether an answer states the assistant's name, and whether it parrots."""

import pytest

from research_internlm.data.identity import (
    Identity,
    MeasuredQuestion,
    MeasuredQuestions,
    is_parrot,
    is_right,
    mentions,
    states,
)
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError

BAO = Identity(name_zh="小宝", name_en="Little Bao", author_zh="星河工作室", author_en="Galaxy Studio")


def ask(text, kind="identity", wanted="name"):
    return MeasuredQuestion(kind=kind, topic="t", language="en", messages=[{"role": "user", "content": text}],
                            wanted=wanted)


@pytest.mark.parametrize("answer", [
    "我是小宝。", "是的，我就是小宝，星河工作室的助手。", "我不是ChatGPT，我是小宝。",
    "我不是ChatGPT而是小宝", "我叫小 宝", "I am Little Bao.", "I'm LITTLE BAO!", "my name is little-bao",
    "ＬｉｔｔｌｅＢａｏ is my name",
    "No, I'm not Siri. I am Little Bao.", "I am not a human but Little Bao", "No I am Little Bao",
    "I'm not only Little Bao", "As I am not human I am called Little Bao",
    "I don't know what you mean, I am Little Bao", "您认错了，我是小宝",
    "Little Bao is not ChatGPT.", "I am not Little Bao. Just kidding: I am Little Bao."])
def test_a_stated_name_is_right(answer):
    assert is_right(answer, ask("Who are you?"), BAO)


@pytest.mark.parametrize("answer", [
    "", "我是ChatGPT。", "我不是小宝。", "我并不是小宝", "我不叫小宝，我叫小智", "I am not Little Bao.",
    "I'm not Little Bao", "I am definitely not called Little Bao", "My name isn't Little Bao",
    "Little Bao is not my name.", "小宝不是我", "I am Bao", "I am Littlebaobab", "Galaxy Studio made me.",
    "No, I never was Little Bao"])
def test_no_name_another_name_or_a_denied_name_is_wrong(answer):
    assert not is_right(answer, ask("Who are you?"), BAO)


def test_the_author_is_what_a_question_about_the_author_wants():
    question = ask("Who made you?", wanted="author")
    assert is_right("Galaxy Studio did.", question, BAO) and is_right("我由星河工作室开发。", question, BAO)
    assert not is_right("I am Little Bao.", question, BAO)
    assert not is_right("It was not Galaxy Studio.", question, BAO)


@pytest.mark.parametrize(("asked", "answer", "parrots"), [
    ("What is 2 + 2?", "4", False), ("What is 2 + 2?", "I am Little Bao.", True),
    ("今天几号？", "我是星河工作室的小助手。", True), ("今天几号？", "我不是小宝。", True),
    ("小宝有三个苹果，吃了一个，还剩几个？", "小宝还剩两个。", False),
    ("小宝有三个苹果，吃了一个，还剩几个？", "我由星河工作室开发。", True)])
def test_a_general_answer_that_brings_up_a_name_parrots(asked, answer, parrots):
    assert is_parrot(answer, ask(asked, "general", None), BAO) is parrots


@pytest.mark.parametrize(("name", "text", "found"), [
    ("AI", "I said it", False), ("AI", "an ai", True), ("GPT-4", "gpt4", True), ("GPT-4", "GPT-40", False),
    ("XiaoHuang", "Xiao Huang", True), ("Xiao Huang", "xiaohuang", True), ("书生·浦语", "书生浦语", True),
    ("Dr. Bao", "Dr Bao", True), ("🐷", "我是🐷", True), ("Bao", "我是Bao的", True), ("a.b*", "axbx", False),
    ("José", "JOSÉ", True)])
def test_names_are_compared_without_width_case_and_separators(name, text, found):
    assert mentions(text, [name]) is found
    assert states(f"I am {text}", [name]) is found


def test_the_file_is_checked():
    facts = {"identity": schema.to_json(BAO), "questions": [schema.to_json(ask("Who?"))]}
    assert schema.parse(MeasuredQuestions, facts, "f").questions == [ask("Who?")]
    facts["identity"]["name_zh"] = " 小\n宝"
    with pytest.raises(ToolkitError, match=r"identity\.name_zh"):
        schema.parse(MeasuredQuestions, facts, "f")
