"""Conversations: every form is read into the same messages, and what cannot be rendered is refused by name.

The ids of the golden conversation are written down piece by piece, from the templates of the two releases and
the pieces of their tokenizer.model.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.mindrecord.encoding import encode_blocks
from research_internlm.data.chat_template import encode, render_messages, supervise_last
from research_internlm.data.conversations import form_of, read_conversation, without_oldest
from research_internlm.data.families import END_MARKERS, FAMILIES
from research_internlm.data.items import render_item
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError


def message(role, content):
    return {"role": role, "content": content}


def to_alpaca(messages):
    system, *pairs = turns_of(messages)
    return {"instruction": pairs[-1][0], "input": "", "output": pairs[-1][1], "system": system,
            "history": [list(pair) for pair in pairs[:-1]]}


def to_openai(messages):
    return {"messages": [dict(message) for message in messages]}


def to_xtuner(messages):
    system, *pairs = turns_of(messages)
    return {"conversation": [{"system": system if place == 0 else "", "input": question, "output": answer}
                             for place, (question, answer) in enumerate(pairs)]}


def to_sharegpt(messages):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[message["role"]], "value": message["content"]}
                              for message in messages]}


def turns_of(messages):
    """The system text, and then (question, answer) pairs."""
    texts = [message["content"] for message in messages]
    system = [texts.pop(0)] if messages[0]["role"] == "system" else [""]
    return [*system, *zip(texts[::2], texts[1::2], strict=True)]


WRITERS = {"alpaca": to_alpaca, "openai": to_openai, "xtuner": to_xtuner, "sharegpt": to_sharegpt}
TEXT = st.text(min_size=1, max_size=9)
DIALOGUES = st.builds(
    lambda system, pairs: [message("system", system)] * bool(system) + [
        message(role, text) for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)],
    st.text(max_size=9), st.lists(st.tuples(st.text(max_size=9), TEXT), min_size=1, max_size=4))


@pytest.mark.slow
@given(DIALOGUES)
def test_every_form_is_read_back_as_the_same_messages(messages):
    for name, writer in WRITERS.items():
        item = writer(messages)
        assert form_of(item) == name
        assert read_conversation(item) == messages
        for other in WRITERS.values():
            assert read_conversation(other(read_conversation(item))) == messages


@pytest.mark.parametrize("item", [
    {"messages": [{"role": "Human", "content": "q"}, {"role": "model", "content": "a"}], "id": "1",
     "tools": []},
    {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
     "system": ""},
    {"conversations": [{"from": "system", "value": ""}, {"from": "user", "value": "q"},
                       {"from": "chatgpt", "value": "a"}], "messages": None},
    {"conversation": [{"from": "human", "value": "q", "weight": None}, {"from": "bing", "value": "a"}]},
    {"messages": [{"input": "q", "output": "a"}]},
])
def test_spellings_in_circulation(item):
    assert read_conversation(item) == [message("user", "q"), message("assistant", "a")]


def test_a_system_text_beside_the_turns_comes_first():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read_conversation({"conversations": turns, "system": "s"})[0] == message("system", "s")


Q, A = message("user", "q"), message("assistant", "a")


@pytest.mark.parametrize(("item", "words"), [
    ({"messages": [Q, A], "tools": [{}]}, "has tools, for which its prompt has no place"),
    ({"messages": [Q, A], "conversations": [1]}, "has conversations, for which"),
    ({"messages": [Q, {**A, "tool_calls": [1], "weight": 0}]},
     "entry 2 of its messages has tool_calls, weight, for which"),
    ({"messages": [Q, A, message("tool", "x")]},
     "entry 3 of its messages has the role 'tool', which is none of system, developer, user"),
    ({"conversations": [{"from": "observation", "value": "x"}]}, "has the from 'observation'"),
    ({"messages": [Q, message("assistant", None)]},
     "entry 2 of its messages has the content None, not a text"),
    ({"messages": [message("user", [{"type": "text"}]), A]}, "entry 1 of its messages has the content"),
    ({"messages": [Q, A, "x"]}, "entry 3 of its messages is 'x', not an object with role, content"),
    ({"messages": [Q, message("assistant", "")]}, "message 2, an answer, is empty"),
    ({"messages": [Q, A, Q]}, "its last message is the user's, to which there is no answer"),
    ({"messages": [message("system", "")]}, "hold no message"),
    ({"conversation": [{"input": "q", "output": "a", "need_eos_token": True}]}, "has need_eos_token"),
    ({"conversation": [{"input": None, "output": "a"}]}, "has the input None, not a text"),
    ({"conversations": [{"from": "human", "value": "q"}], "system": 5}, "has the system 5, not a text"),
    ({"instruction": "i", "input": "", "output": "o", "history": "x"}, "its history is 'x', not a list"),
    ({"instruction": "i", "input": "", "output": "o", "history": [["q", "a"], ["q"]]},
     "entry 2 of its history is ['q'], not [question, answer]"),
    ({"instruction": "i", "input": "", "output": "o", "system": ["x"]}, "has the system ['x'], not a text"),
])
def test_what_has_no_place_is_refused_by_name(item, words):
    with pytest.raises(ToolkitError) as refusal:
        read_conversation(item)
    assert words in str(refusal.value)


@pytest.mark.parametrize("item", [{}, [], 1, {"messages": []}, {"messages": "text"}, {"messages": ["text"]},
                                  {"messages": [{"content": "c"}]}])
def test_what_is_no_conversation_has_no_form(item):
    assert form_of(item) is None


# Which exchanges go. S is a system turn of 5 tokens, each other message has 10.


@pytest.mark.parametrize(("roles", "room", "kept", "gone"), [
    ("S U A U A U A", 65, "S U A U A U A", 0), ("S U A U A U A", 64, "S U A U A", 1),
    ("S U A U A U A", 44, "S U A", 2), ("S U A U A U A", 24, "S U A U A U A", 0),
    ("U A U A", 39, "U A", 1), ("U A A U U A", 59, "U U A", 1), ("A U A", 29, "U A", 1),
    ("U A S U A", 40, "S U A", 1), ("S S U A U A", 49, "S S U A", 1), ("U A", 19, "U A", 0)])
def test_whole_oldest_exchanges_go(roles, room, kept, gone):
    names = {"S": "system", "U": "user", "A": "assistant"}
    messages = [message(names[role], str(place)) for place, role in enumerate(roles.split())]
    rest, count = without_oldest(messages, [5 if role == "S" else 10 for role in roles.split()], room)
    assert [name for entry in rest for name, role in names.items() if role == entry["role"]] == kept.split()
    assert count == gone
    assert rest[-1] == messages[-1]


# Ids, by hand: ids of pieces, and of the two end markers and the newline where the template has them.

GOLDEN = [message("system", "You are Bao."), message("user", "Who are you?"),
          message("assistant", "I am Bao."), message("user", "你是谁？"), message("assistant", "我是小宝。")]
PIECES = {
    "internlm": {"<|System|>:": [333, 352, 2472, 352, 27232], "<|User|>:": [333, 352, 1621, 352, 27232],
                 "<|Bot|>:": [333, 352, 23845, 352, 27232], "你是谁？": [69596, 61275, 99050],
                 "我是小宝。": [67883, 60394, 60720, 99157]},
    "internlm2": {"system\n": [9081, 364], "user\n": [1008, 364], "assistant\n": [525, 11353, 364],
                  "\n": [364], "你是谁？": [70447, 61297, 60504], "我是小宝。": [68734, 60398, 60737, 60355]},
}
for own in PIECES.values():
    own |= {"You are Bao.": [2770, 657, 556, 3602, 281], "Who are you?": [15315, 657, 629, 345],
            "I am Bao.": [295, 1221, 556, 3602, 281]}
TEMPLATES = {  # what stands in angle quotes is learnt
    "internlm": ["<s>", "<|System|>:", "You are Bao.", 13, "<|User|>:", "Who are you?", 103167, 13,
                 "<|Bot|>:", "«", "I am Bao.", 103166, "»", 13, "<|User|>:", "你是谁？", 103167, 13,
                 "<|Bot|>:", "«", "我是小宝。", 103166, 13, 2, "»"],
    "internlm2": ["<s>", 92543, "system\n", "You are Bao.", 92542, "\n", 92543, "user\n", "Who are you?",
                  92542, "\n", 92543, "assistant\n", "«", "I am Bao.", 92542, "»", "\n", 92543, "user\n",
                  "你是谁？", 92542, "\n", 92543, "assistant\n", "«", "我是小宝。", 92542, "»"],
}


def golden(family):
    """Ids and the supervised flags of the conversation, from the tables above."""
    ids, flags, learnt = [], [], False
    for part in TEMPLATES[family]:
        if part in ("«", "»"):
            learnt = part == "«"
            continue
        new = [part] if isinstance(part, int) else [1] if part == "<s>" else PIECES[family][part]
        ids += new
        flags += [learnt] * len(new)
    return ids, flags


@pytest.fixture(scope="module", params=sorted(TEMPLATES))
def vocabulary(request, real_data):
    processor = load_tokenizer(real_data / "tokenizers" / f"{request.param}.model")
    return processor, special_tokens(processor)


@pytest.mark.real_data
def test_a_conversation_with_a_system_turn_has_the_ids_written_down(vocabulary):
    processor, special = vocabulary
    for text, ids in PIECES[special.family].items():
        assert "".join(map(processor.id_to_piece, ids)).replace("\u2581", " ") == text
    assert encode(render_messages(GOLDEN, special.family), processor, special) == golden(special.family)


@pytest.mark.real_data
def test_training_on_the_last_answer_changes_labels_only(vocabulary):
    processor, special = vocabulary
    ids, flags = golden(special.family)
    (block,) = encode_blocks([{"messages": GOLDEN}] * 2, processor, special, 1, train_on="last")
    last = len(flags) - flags[::-1].index(False)
    for sample, learnt in block.samples():
        assert (sample.tolist(), learnt.tolist()) == (ids, [place >= last for place in range(len(ids))])


@pytest.mark.real_data
def test_a_long_conversation_keeps_its_system_turn_and_newest_exchanges(vocabulary):
    processor, special = vocabulary
    all_, rest = ({"messages": messages} for messages in (GOLDEN, [GOLDEN[0], *GOLDEN[3:]]))
    ids, _ = golden(special.family)
    rest_ids, _ = encode(render_item(rest, special.family), processor, special)
    for room, expected, shortened in ((len(ids), ids, {}), (len(ids) - 1, rest_ids, {0: (len(ids), 1)}),
                                      (len(rest_ids), rest_ids, {0: (len(ids), 1)}),
                                      (len(rest_ids) - 1, ids, {})):
        (block,) = encode_blocks([all_], processor, special, 1, room=room)
        assert (block.ids.tolist(), dict(block.shortened)) == (expected, shortened)


@given(DIALOGUES, st.sampled_from(sorted(FAMILIES)), st.sampled_from(END_MARKERS))
def test_the_last_answer_alone_is_supervised(messages, family, end):
    segments = render_messages(messages, family, end)
    last = supervise_last(segments)
    assert [segment.content for segment in last if segment.supervised] == [
        messages[-1]["content"], *FAMILIES[family].end_markers[end]]
    assert [segment.content for segment in last] == [segment.content for segment in segments]
