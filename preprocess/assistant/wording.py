"""The wording of the assistant's data: zh.json and en.json beside this file.

Texts hold {name}, {author}, {other} (another assistant) and {company} (that made another one).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from research_internlm.data.identity import Identity, mentions
from research_internlm.shared import schema

LANGUAGES = ("zh", "en")
WORDING = "assistant-1"  # goes into manifests; raise it when a text of the two files changes


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One sort of question about the identity.

    Attributes:
        wanted: What a right answer states.
        questions: Of training.
        held_out: Of measurement; training never shows them.
        follow_ups: Questions that come second in a conversation.
        answers: To any of them.
    """

    wanted: Literal["name", "author"]
    questions: list[str]
    held_out: list[str]
    follow_ups: list[str]
    answers: list[str]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The texts of one language.

    Attributes:
        topics: Questions about the identity.
        systems: System prompts beside which the assistant keeps its name.
        held_out_systems: Those of measurement.
        others: Names of other assistants.
        companies: Who made them.
        general: Conversations about other things: question, answer, question, answer ...
        near: The same, close to a question about the identity but not to be answered by the name.
        general_held_out: General questions of measurement.
        near_held_out: Near ones of measurement.
    """

    topics: dict[str, Topic]
    systems: list[str]
    held_out_systems: list[str]
    others: list[str]
    companies: list[str]
    general: list[list[str]] = field(default_factory=list)
    near: list[list[str]] = field(default_factory=list)
    general_held_out: list[str] = field(default_factory=list)
    near_held_out: list[str] = field(default_factory=list)


@functools.cache
def wording(language: str) -> Wording:
    """The texts of a language."""
    return schema.read(Path(__file__).with_name(f"{language}.json"), Wording, "the wording")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Puts values in a text's places, at once, so that braces in a name stay what they are."""
    return re.sub(r"\{(name|author|other|company)\}", lambda found: values[found[1]], text)


def own_values(identity: Identity, language: str) -> dict[str, str]:
    """What `fill` needs of an identity."""
    return {"name": getattr(identity, f"name_{language}"), "author": getattr(identity, f"author_{language}")}


def foreign_values(identity: Identity, language: str) -> list[dict[str, str]]:
    """Pairs of another assistant and a company for `fill`, none of them the identity's own."""
    own = (*identity.names("name"), *identity.names("author"))
    others, companies = ([name for name in names if not mentions(name, own)]
                         for names in (wording(language).others, wording(language).companies))
    return [{"other": other, "company": companies[place % len(companies)]}
            for place, other in enumerate(others)]
