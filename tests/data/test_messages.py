"""Conversations of any number of turns as segments, in the format of each family."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_internlm.data.chat_template import encode, render_chat, render_messages
from research_internlm.data.families import END_MARKERS, FAMILIES
from research_internlm.data.tokens import SpecialTokens
from research_internlm.shared.errors import ToolkitError
from tests.helpers.alpaca import item, upstream_ids

TURNS = {"system": "S", "user": "U", "assistant": "A"}
SPELLED = {"bos": "<s>", "eos": "</s>", "newline": "⏎", "end_of_user": "«eou»", "end_of_assistant": "«eoa»",
           "turn_start": "«start»"}

families = st.sampled_from(sorted(FAMILIES))
ends = st.sampled_from(END_MARKERS)
conversations = st.lists(st.fixed_dictionaries({
    "role": st.sampled_from(sorted(TURNS)), "content": st.text(max_size=12)}), max_size=7)


class Characters:
    """A vocabulary of one id per character."""

    def encode(self, text):
        return [ord(character) for character in text]


def conversation(roles):
    return [{"role": role, "content": f"{TURNS[role]}{place}"} for place, role in enumerate(roles.split())]


def spelled(segments):
    """The text of segments; what is supervised stands in brackets."""
    parts = [(SPELLED[segment.content] if segment.is_token else segment.content, segment.supervised)
             for segment in segments]
    return "".join(f"[{text}]" if supervised else text for text, supervised in parts)


@pytest.mark.parametrize(("family", "end", "roles", "expected"), [
    ("internlm", "eoa", "system user assistant user assistant",
     "<s><|System|>:S0⏎<|User|>:U1«eou»⏎<|Bot|>:[A2][«eoa»]⏎<|User|>:U3«eou»⏎<|Bot|>:[A4][«eoa»][⏎][</s>]"),
    ("internlm", "eos", "user assistant user assistant",
     "<s><|User|>:U0«eou»⏎<|Bot|>:[A1][</s>]⏎<|User|>:U2«eou»⏎<|Bot|>:[A3][</s>]"),
    ("internlm", "eoa", "user assistant user",
     "<s><|User|>:U0«eou»⏎<|Bot|>:[A1][«eoa»]⏎<|User|>:U2«eou»⏎<|Bot|>:"),
    ("internlm2", "eoa", "system user assistant user assistant",
     "<s>«start»system\nS0«eou»\n«start»user\nU1«eou»\n«start»assistant\n[A2][«eoa»]\n"
     "«start»user\nU3«eou»\n«start»assistant\n[A4][«eoa»]"),
    ("internlm2", "eos", "user assistant user",
     "<s>«start»user\nU0«eou»\n«start»assistant\n[A1][</s>]\n«start»user\nU2«eou»\n«start»assistant\n"),
    ("internlm2", "eoa", "", "<s>«start»assistant\n"),
])
def test_a_conversation_has_its_family_s_format(family, end, roles, expected):
    assert spelled(render_messages(conversation(roles), family, end)) == expected


@given(conversations, families, ends)
def test_the_prompt_of_every_answer_is_the_prefix_of_training(messages, family, end):
    training = render_messages(messages, family, end)
    for place, message in enumerate(messages):
        if message["role"] == "assistant" and (place == 0 or messages[place - 1]["role"] != "assistant"):
            prompt = render_messages(messages[:place], family, end)
            assert training[:len(prompt)] == prompt
            assert training[len(prompt)].content == message["content"] and training[len(prompt)].supervised


@given(conversations, families, ends)
def test_answers_and_their_end_are_supervised_and_nothing_else(messages, family, end):
    segments = render_messages(messages, family, end)
    markers, expected = FAMILIES[family].end_markers[end], []
    for place, message in enumerate(messages, 1):
        if message["role"] == "assistant":
            expected += [message["content"], *(markers if place == len(messages) else markers[:1])]
    assert [segment.content for segment in segments if segment.supervised] == expected


@given(conversations, families, ends)
def test_one_conversation_begins_once(messages, family, end):
    # A packed row is cut into samples where <s> stands.
    assert [place for place, segment in enumerate(render_messages(messages, family, end))
            if segment.is_token and segment.content == "bos"] == [0]


@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), families, ends)
def test_an_alpaca_item_is_the_case_of_two_messages(instruction, text, output, family, end):
    user = {"role": "user", "content": f"{instruction}\n{text}" if text else instruction}
    answer = {"role": "assistant", "content": output}
    assert render_chat(instruction, text, output, family, end) == render_messages([user, answer], family, end)
    assert render_chat(instruction, text, family=family) == render_messages([user], family)


def test_the_ids_of_an_alpaca_item_are_upstream_s():
    special = SpecialTokens(9, MappingProxyType({
        "bos": 1, "eos": 2, "newline": 13, "end_of_user": 7, "end_of_assistant": 8}))
    example = item()
    ids, supervised = encode(render_chat(*example.values()), Characters(), special)
    assert (ids, supervised.index(True)) == upstream_ids(example, Characters(), 7, 8)


def test_an_unknown_role_is_refused():
    with pytest.raises(ToolkitError, match="role 'tool'; InternLM2's chat has system, user, assistant"):
        render_messages([{"role": "tool", "content": "x"}], "internlm2")
