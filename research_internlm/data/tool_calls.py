"""Tool calls in InternLM2's own form: what a prompt says of tools, and what an answer calls.

    <|im_start|>system name=<|plugin|>\\n[{"name": ..., "description": ..., "parameters": {...}}]<|im_end|>
    <|im_start|>assistant\\nSome text<|action_start|><|plugin|>\\n{"name": ..., "parameters": {...}}
        <|action_end|><|im_end|>
    <|im_start|>environment name=<|plugin|>\\nthe tool's result<|im_end|>

Source: chat/chat_format.md of InternLM/InternLM at commit fe4c2eb (2025-02-07). It shows the list of tools
over several lines; here it is one line, as LMDeploy wrote it for InternLM2 (lmdeploy/model.py before commit
967df47). A tool's result has `name=<|plugin|>` as in the document; LMDeploy left it out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm.data.chat_template import render_turn
from research_internlm.data.conversations import Message
from research_internlm.data.families import ASSISTANT, FAMILIES, SYSTEM, UPSTREAM_END
from research_internlm.data.segments import Segment, special_token
from research_internlm.data.tokens import SpecialTokens

_PLUGIN = special_token("plugin")


@dataclass(frozen=True)
class ToolCall:
    """A call that an answer makes.

    Attributes:
        name: The tool.
        parameters: Its arguments by name.
    """

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ToolTurn:
    """A turn of a conversation with tools: an answer that calls some, or a tool's result.

    Attributes:
        content: The answer's text, or the result.
        calls: The calls; empty for a result.
    """

    content: str
    calls: tuple[ToolCall, ...] = ()


def render_with_tools(turns: Sequence[Message | ToolTurn], tools: Sequence[Mapping[str, Any]], family: str
                      ) -> list[Segment]:
    """Renders the prompt for an answer that may call tools.

    Args:
        turns: The conversation, its last turn not the assistant's.
        tools: `name`, `description` and `parameters` (a JSON schema) of each; empty offers none.
        family: A family with `tool_pieces`.

    Returns:
        Segments; without tools and tool turns, those of `chat_template.render_messages`.
    """
    head = next((place for place, turn in enumerate(turns)
                 if isinstance(turn, ToolTurn) or turn["role"] != SYSTEM), len(turns))
    segments = [special_token("bos"), *_render_all(turns[:head], family)]
    if tools:
        segments += _named_turn(SYSTEM, json.dumps(list(tools), ensure_ascii=False), family)
    return [*segments, *_render_all(turns[head:], family), *FAMILIES[family].turns[ASSISTANT].before]


def _render_all(turns: Sequence[Message | ToolTurn], family: str) -> Iterator[Segment]:
    for turn in turns:
        if not isinstance(turn, ToolTurn):
            yield from render_turn(turn, family, UPSTREAM_END, is_last=False)
        elif turn.calls:
            yield from _calling_turn(turn, family)
        else:
            yield from _named_turn("environment", turn.content, family)


def _named_turn(role: str, content: str, family: str) -> list[Segment]:
    return [special_token("turn_start"), Segment(f"{role} name="), _PLUGIN, Segment(f"\n{content}"),
            *FAMILIES[family].turns[SYSTEM].after]


def _calling_turn(turn: ToolTurn, family: str) -> list[Segment]:
    row = FAMILIES[family]
    calls = [segment for call in turn.calls
             for segment in (special_token("action_start"), _PLUGIN, Segment("\n" + _to_json(call)),
                             special_token("action_end"))]
    end = special_token(row.end_markers[UPSTREAM_END][0])
    return [*row.turns[ASSISTANT].before, Segment(turn.content), *calls, end, *row.turns[ASSISTANT].after]


def _to_json(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "parameters": call.parameters}, ensure_ascii=False)


def split_calls(ids: Sequence[int], special: SpecialTokens) -> tuple[list[int], list[list[int]]]:
    """Splits an answer into its text and the bodies of its calls.

    Args:
        ids: Token ids of the answer.
        special: With tool ids.

    Returns:
        The ids before the first call, and those within each call; a call ends where the next one begins, or
        with the answer, if its end marker is missing.
    """
    start, end = special["action_start"], special["action_end"]
    text: list[int] = []
    calls: list[list[int]] = []
    for token in ids:
        if token == start:
            calls.append([])
        elif token != end:
            (calls[-1] if calls else text).append(token)
    return text, calls


def read_call(text: str, names: Collection[str]) -> ToolCall | None:
    """Reads the body of a call.

    Args:
        text: What stands between the call's markers.
        names: Tools that were offered.

    Returns:
        The call, or None where it is not one object with the name of such a tool and its parameters.
    """
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("name") not in names:
        return None
    parameters = found.get("parameters", found.get("arguments", {}))
    return ToolCall(found["name"], parameters) if isinstance(parameters, dict) else None
