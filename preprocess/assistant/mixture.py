"""The mixture: conversations about an identity among general ones, at a stated ratio.

A few sentences repeated alone teach a model to answer everything with them; general conversations, and those
near the identity's questions, keep the rest as it was.
"""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.assistant.dialogues import (
    Deck,
    held_out_questions,
    identity_dialogues,
    identity_questions,
    own_dialogues,
)
from research_internlm.data.conversations import MESSAGES, Message, read_conversation
from research_internlm.data.families import USER
from research_internlm.data.identity import GENERAL, Identity
from research_internlm.data.item_files import READING, read_formed
from research_internlm.shared.errors import ToolkitError

_NEAR_SHARE = 10  # one in so many general conversations is one of the toolkit's near ones

Item = dict[str, Any]


@dataclass
class General:
    """General conversations that were read, and what became of the others.

    Attributes:
        chosen: The sample.
        read: Conversations in the file.
        usable: Those that may be chosen.
        left_out: Every other one with the reason.
    """

    chosen: list[list[Message]]
    read: int = 0
    usable: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)


def mix(identity: Identity, count: int, per_identity: int, path: Path | None, seed: int
        ) -> tuple[list[Item], General]:
    """Makes the training conversations.

    Args:
        identity: Who the assistant is.
        count: Conversations about the identity.
        per_identity: General conversations for each of them.
        path: A file of general conversations, in any form that the converter reads; None takes the
            toolkit's own.
        seed: Of every choice.

    Returns:
        The items in shuffled order, and what was read of the general file.

    Raises:
        ToolkitError: The file is not valid or has nothing usable.
    """
    generator = random.Random(seed)
    total = count * per_identity
    near = total // _NEAR_SHARE
    general = read_general(path, identity, total - near, generator)
    items = [*_items("identity", itertools.islice(identity_dialogues(identity, generator), count)),
             *_items("near", _dealt(own_dialogues("near"), near, generator)),
             *_items("general", _dealt(general.chosen, total - near, generator))]
    generator.shuffle(items)
    return items, general


def _items(source: str, dialogues: Iterable[Sequence[Message]]) -> list[Item]:
    return [{MESSAGES: list(messages), "source": source} for messages in dialogues]


def _dealt(dialogues: Sequence[list[Message]], count: int, generator: random.Random) -> list[list[Message]]:
    deck = Deck(dialogues, generator)
    return [deck.deal() for _ in range(count)]


def read_general(path: Path | None, identity: Identity, wanted: int, generator: random.Random) -> General:
    """Samples general conversations, each as often as any other; the file is streamed.

    Left out are those that ask for the identity, which would teach another one, and those that ask what the
    measurement asks.

    Args:
        path: The file; None for the toolkit's own.
        identity: Who the assistant is.
        wanted: Most conversations to keep.
        generator: Draws them.

    Raises:
        ToolkitError: The file is not valid, holds questions on a passage, or has nothing usable.
    """
    if path is None:
        own = own_dialogues("general")
        return General(own, len(own), len(own))
    found = General([])
    refused = _refused_questions(identity)
    for number, (form, item) in enumerate(read_formed(path), 1):
        if form == READING:
            raise ToolkitError(f"{path}, item {number} is a question on a passage, not a conversation; "
                               "remove it")
        messages = item[MESSAGES] if MESSAGES in item else read_conversation(item)
        found.read += 1
        reason = next((refused[key] for message in messages if message["role"] == USER
                       and (key := plain(message["content"])) in refused), None)
        if reason:
            found.left_out.append({"item": f"{path.name} item {number}", "reason": reason})
            continue
        found.usable += 1
        if len(found.chosen) < wanted:
            found.chosen.append(messages)
        elif (place := generator.randrange(found.usable)) < wanted:  # reservoir sampling, algorithm R
            found.chosen[place] = messages
    if wanted and not found.chosen:
        raise ToolkitError(f"--general {path} holds {found.read} conversations, and none can be used: all "
                           "ask for the identity or are held out; give general ones")
    return found


def _refused_questions(identity: Identity) -> dict[str, str]:
    held_out = (question.messages[-1]["content"] for question in held_out_questions(identity)
                if question.kind == GENERAL)
    return {**dict.fromkeys(map(plain, held_out), "is a held-out question"),
            **dict.fromkeys(map(plain, identity_questions(identity)), "asks for the identity")}


def plain(text: str) -> str:
    """A question without regard to width, case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def counts_of(items: Sequence[Item]) -> dict[str, int]:
    """Items by their source, and how many of them differ."""
    sources = Counter(item["source"] for item in items)
    distinct = {tuple((message["role"], message["content"]) for message in item[MESSAGES]) for item in items}
    return {"items": len(items), **sources, "distinct": len(distinct)}
