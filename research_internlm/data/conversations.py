"""Conversations in the forms that circulate, read into one: a list of messages as OpenAI's API has them.

    alpaca    {"instruction", "input", "output", "system", "history": [[question, answer], ...]}
    openai    {"messages": [{"role", "content"}, ...]}
    xtuner    {"conversation": [{"system", "input", "output"}, ...]}
    sharegpt  {"conversations": [{"from", "value"}, ...], "system"}

What an item holds tells its form. Files in circulation exchange the three names of the list, so the fields
of its first turn decide. An empty system text is no system turn, as in XTuner and LLaMA-Factory. Messages
keep their order, whatever it is; what cannot be rendered is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from research_internlm.data.families import ASSISTANT, SYSTEM, USER
from research_internlm.shared.errors import ToolkitError

Message = Mapping[str, str]  # `role` (system, user or assistant) and `content`, as in OpenAI's API

ALPACA = "alpaca"
MESSAGES = "messages"  # the field of the internal form, OpenAI's
_LISTS = (MESSAGES, "conversation", "conversations")
# Names of roles in files -> ours. ShareGPT's exports name the product that answered.
_ROLES = MappingProxyType({
    SYSTEM: SYSTEM, "developer": SYSTEM, USER: USER, "human": USER, ASSISTANT: ASSISTANT,
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "bot", "model"), ASSISTANT)})
# Fields that say where a conversation comes from; no prompt shows them.
_NOTES = ("id", "source", "dataset", "conversation_id", "model", "language", "lang", "category")


def _read_openai(turn: Mapping[str, Any]) -> Iterator[Message]:
    yield {"role": _role(turn, "role"), "content": _text(turn, "content")}


def _read_sharegpt(turn: Mapping[str, Any]) -> Iterator[Message]:
    yield {"role": _role(turn, "from"), "content": _text(turn, "value")}


def _read_xtuner(turn: Mapping[str, Any]) -> Iterator[Message]:
    for role, key in ((SYSTEM, "system"), (USER, "input"), (ASSISTANT, "output")):
        if role != SYSTEM or turn.get(key):
            yield {"role": role, "content": _text(turn, key)}


@dataclass(frozen=True)
class Form:
    """A form whose item is a list of turns.

    Attributes:
        fields: Of a turn; any of the first `telling` ones tells the form.
        telling: How many.
        read: The messages of a turn.
    """

    fields: tuple[str, ...]
    telling: int
    read: Callable[[Mapping[str, Any]], Iterator[Message]]


FORMS: Mapping[str, Form] = MappingProxyType({
    "openai": Form(("role", "content"), 1, _read_openai),
    "sharegpt": Form(("from", "value"), 1, _read_sharegpt),
    "xtuner": Form(("input", "output", "system"), 2, _read_xtuner),
})


def form_of(item: Any) -> str | None:
    """The form of a parsed item, ALPACA or a key of FORMS; None where it has neither turns nor texts."""
    if not isinstance(item, Mapping):
        return None
    key = _list_of(item)
    if key is None:
        return ALPACA if "instruction" in item or "output" in item else None
    first = item[key][0] if isinstance(item[key], list) else None
    if not isinstance(first, Mapping):
        return None
    return next((name for name, form in FORMS.items()
                 if any(field in first for field in form.fields[:form.telling])), None)


def _list_of(item: Mapping[str, Any]) -> str | None:
    return next((key for key in _LISTS if item.get(key)), None)


def read_conversation(item: Mapping[str, Any]) -> list[Message]:
    """Reads an item of any form.

    Args:
        item: The parsed item; `form_of` knows its form.

    Returns:
        Its messages, the last one an answer.

    Raises:
        ToolkitError: A turn lacks its texts, has an unknown role (tools have none yet) or other content, an
            answer is empty, or the last message has no answer. The caller names the file and the item.
    """
    messages = _read_alpaca(item) if form_of(item) == ALPACA else _read_turns(item)
    for place, message in enumerate(messages, 1):
        if message["role"] == ASSISTANT and not message["content"]:
            raise ToolkitError(f"message {place}, an answer, is empty, so there is nothing to learn; give it "
                               "a text or remove the item")
    if messages[-1]["role"] != ASSISTANT:
        raise ToolkitError(f"its last message is the {messages[-1]['role']}'s, to which there is no answer "
                           "to learn; add the answer or remove the message")
    return messages


def _read_alpaca(item: Mapping[str, Any]) -> list[Message]:
    messages: list[Message] = _system(item)
    history = item.get("history") or []
    if not isinstance(history, list):
        raise ToolkitError(f"its history is {history!r:.60}, not a list of [question, answer]")
    for number, pair in enumerate(history, 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise ToolkitError(f"entry {number} of its history is {pair!r:.60}, not [question, answer]")
        messages += _exchange(*pair)
    return messages + _exchange(user_text(item["instruction"], item["input"]), item["output"])


def user_text(instruction: str, input_text: str) -> str:
    """A user's message of the two alpaca fields; an empty input adds no newline."""
    return f"{instruction}\n{input_text}" if input_text else instruction


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}]


def _system(item: Mapping[str, Any]) -> list[Message]:
    return [{"role": SYSTEM, "content": _text(item, "system")}] if item.get("system") else []


def _read_turns(item: Mapping[str, Any]) -> list[Message]:
    key, form = _list_of(item), FORMS[form_of(item)]
    _refuse_others(item, (key, "system", *_NOTES))
    messages = _system(item)
    for place, turn in enumerate(item[key], 1):
        try:
            if not isinstance(turn, Mapping):
                raise ToolkitError(f"is {turn!r:.60}, not an object with {', '.join(form.fields)}")
            _refuse_others(turn, form.fields)
            messages += [message for message in form.read(turn)
                         if message["content"] or message["role"] != SYSTEM]
        except ToolkitError as error:
            raise ToolkitError(f"entry {place} of its {key} {error}") from None
    if not messages:
        raise ToolkitError(f"its {key} hold no message; remove the item")
    return messages


def _refuse_others(found: Mapping[str, Any], known: Collection[str]) -> None:
    lost = [str(key) for key, value in found.items() if key not in known and value not in (None, "", [], {})]
    if lost:
        raise ToolkitError(f"has {', '.join(lost)}, for which its prompt has no place, so the content would "
                           f"be lost: remove {'it' if len(lost) == 1 else 'them'}")


def _role(turn: Mapping[str, Any], key: str) -> str:
    found = turn.get(key)
    role = _ROLES.get(found.lower()) if isinstance(found, str) else None
    if role is None:
        raise ToolkitError(f"has the {key} {found!r:.40}, which is none of {', '.join(_ROLES)}")
    return role


def _text(found: Mapping[str, Any], key: str) -> str:
    if not isinstance(found.get(key), str):
        raise ToolkitError(f"has the {key} {found.get(key)!r:.60}, not a text")
    return found[key]


def without_oldest(messages: Sequence[Message], tokens: Sequence[int], room: int
                   ) -> tuple[list[Message], int]:
    """Leaves out the oldest exchanges of a conversation, as few as make it fit.

    An exchange is what was asked and what was answered to it. System turns at the start stay.

    Args:
        messages: The conversation.
        tokens: Tokens of each message with its template.
        room: Tokens there is room for.

    Returns:
        What is left, and how many exchanges went; everything and 0 where the last exchange alone does not
        fit either.
    """
    head = next((place for place, message in enumerate(messages) if message["role"] != SYSTEM), len(messages))
    starts = [place for place in range(head, len(messages))
              if place == head or (messages[place]["role"] != ASSISTANT
                                   and messages[place - 1]["role"] == ASSISTANT)]
    total = sum(tokens)
    for gone, start in enumerate(starts):
        if total - sum(tokens[head:start]) <= room:
            return [*messages[:head], *messages[start:]], gone
    return list(messages), 0
