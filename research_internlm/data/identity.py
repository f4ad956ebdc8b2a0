"""The owner of an assistant's identity: its names, the questions that measure it, and the scoring rule.

An answer to a question about the identity is right where it states the name that was asked for, the Chinese
or the English one, without denying it ("I am not X"). An answer to a general question parrots where it brings
up the assistant's name or its author's although the question did not. Names are compared without regard to
width, case and the separators within them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from research_internlm.shared.schema import Rule

IDENTITY, GENERAL = "identity", "general"
NAME, AUTHOR = "name", "author"

Name = Annotated[str, Rule(lambda text: text.strip() == text != "" and text.isprintable(),
                           "a name on one line, without spaces around it")]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who an assistant is; a name in one language may serve for both.

    Attributes:
        name_zh: Its name in Chinese answers.
        name_en: Its name in English answers.
        author_zh: Who made it, in Chinese answers.
        author_en: Who made it, in English answers.
    """

    name_zh: Name
    name_en: Name
    author_zh: Name
    author_en: Name

    def names(self, wanted: str) -> tuple[str, str]:
        """The assistant's names (NAME) or its author's (AUTHOR)."""
        return (self.name_zh, self.name_en) if wanted == NAME else (self.author_zh, self.author_en)


@dataclass(frozen=True, kw_only=True)
class MeasuredQuestion:
    """A question that training never shows, and what its answer is measured by.

    Attributes:
        kind: IDENTITY or GENERAL.
        topic: Which sort of question it is within the kind.
        language: Of the question.
        messages: The prompt: `role` and `content` of each message, the last one the user's.
        wanted: What a right answer states, NAME or AUTHOR; None for a general question.
    """

    kind: Literal["identity", "general"]
    topic: str
    language: Literal["zh", "en"]
    messages: list[dict[str, str]]
    wanted: Literal["name", "author"] | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredQuestions:
    """The file of held-out questions that preprocess/assistant_data.py writes.

    Attributes:
        identity: Who the assistant is.
        questions: What it is asked.
    """

    identity: Identity
    questions: list[MeasuredQuestion]


def is_right(answer: str, question: MeasuredQuestion, identity: Identity) -> bool:
    """Whether an answer to a question about the identity states the name that was asked for."""
    return states(answer, identity.names(question.wanted))


def is_parrot(answer: str, question: MeasuredQuestion, identity: Identity) -> bool:
    """Whether an answer to a general question brings up a name of the identity that the question lacks."""
    asked = "\n".join(message["content"] for message in question.messages)
    names = (*identity.names(NAME), *identity.names(AUTHOR))
    return mentions(answer, [name for name in names if not mentions(asked, [name])])


def mentions(text: str, names: Sequence[str]) -> bool:
    """Whether a text has one of some names in it."""
    text = _normalised(text)
    return any(_pattern(name).search(text) for name in names)


def states(text: str, names: Sequence[str]) -> bool:
    """Whether a text states one of some names and does not deny it.

    A name is denied where a negation stands between it and the subject before it ("I am not X", 我不是X) or
    right after it ("X is not my name"); "I am not Y but X" and "not only X" state X.
    """
    text = _normalised(text)
    for name in names:
        text = _pattern(name).sub(_HERE, text)
    return any(_HERE in clause and not _DENIED.search(clause) for clause in _CLAUSE_END.split(text))


# Of normalised text, in which a name is _HERE.
_HERE = "\0"
_CLAUSE_END = re.compile(r"[。!?;,、\n]|\.(?!\w)|而是|但|\bbut\b|\binstead\b")
_SUBJECT = r"我|\b(?:i|it|this|my|me)\b"
_DENIED = re.compile(
    rf"(?:不是|不叫|并非|绝非|\bnot\b(?! (?:only|just|merely|simply)\b)|n['’]t\b|\bnever\b|\bno longer\b)"
    rf"(?:(?!{_SUBJECT}).)*{_HERE}"
    rf"|{_HERE} ?(?:并?不是我|(?:is|was)(?: not|n['’]t) (?:me|my|who|what)\b)", re.DOTALL)
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]")


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace(_HERE, "").casefold()


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """A name in normalised text: its words, digits and Han characters, at most two other characters between.

    A name that begins or ends in a Latin letter or a digit is not found inside a longer word.
    """
    name = unicodedata.normalize("NFKC", name)
    parts = [part.casefold() for part in _PART.findall(name)] or [name.casefold()]
    before = r"(?<![a-z0-9])" if re.match("[a-z0-9]", parts[0]) else ""
    after = r"(?![a-z0-9])" if re.search("[a-z0-9]$", parts[-1]) else ""
    return re.compile(before + r"[\W_]{0,2}".join(map(re.escape, parts)) + after)
