"""Conversations about an identity and near it, and the held-out questions that measure what was learnt."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from preprocess.assistant.wording import LANGUAGES, Topic, fill, foreign_values, own_values, wording
from research_internlm.data.conversations import Message
from research_internlm.data.families import ASSISTANT, SYSTEM, USER
from research_internlm.data.identity import GENERAL, IDENTITY, Identity, MeasuredQuestion

T = TypeVar("T")
# How a conversation leads to the question about the identity, and how many of twenty do so.
_SHAPES = (*["alone"] * 10, *["system"] * 4, *["follow_up"] * 4, *["after_general"] * 2)


class Deck(Generic[T]):
    """Deals all of its cards once in random order, and then again in another order.

    Args:
        cards: What to deal.
        generator: Shuffles.
    """

    def __init__(self, cards: Sequence[T], generator: random.Random) -> None:
        self._cards, self._left, self._generator = list(cards), [], generator

    def deal(self) -> T:
        """The next card."""
        if not self._left:
            self._left = self._generator.sample(self._cards, len(self._cards))
        return self._left.pop()


class _Dealer:
    """Deals the parts of conversations about the identity in one language."""

    def __init__(self, identity: Identity, language: str, generator: random.Random) -> None:
        def deck(cards: Sequence[T]) -> Deck[T]:
            return Deck(cards, generator)

        texts = wording(language)
        self._own = own_values(identity, language)
        self._foreign = deck(foreign_values(identity, language))
        self._shapes, self._topics = deck(_SHAPES), deck(list(texts.topics))
        self._systems, self._general = deck(texts.systems), deck(texts.general)
        self._decks = {(name, part): deck(getattr(topic, part)) for name, topic in texts.topics.items()
                       for part in ("questions", "follow_ups", "answers")}

    def deal(self) -> list[Message]:
        """A conversation of the next shape about the next topic."""
        shape, topic = self._shapes.deal(), self._topics.deal()
        if shape == "alone":
            return self._exchange(topic, "questions")
        if shape == "system":
            return [{"role": SYSTEM, "content": self._systems.deal()}, *self._exchange(topic, "questions")]
        start = (self._exchange(self._topics.deal(), "questions") if shape == "follow_up"
                 else conversation(self._general.deal()))
        return [*start, *self._exchange(topic, "follow_ups")]

    def _exchange(self, topic: str, part: str) -> list[Message]:
        values = self._own | self._foreign.deal()
        return conversation([fill(self._decks[topic, kind].deal(), values) for kind in (part, "answers")])


def conversation(texts: Sequence[str]) -> list[Message]:
    """Messages of question, answer, question, answer ..."""
    return [{"role": (USER, ASSISTANT)[place % 2], "content": text} for place, text in enumerate(texts)]


def identity_dialogues(identity: Identity, generator: random.Random) -> Iterator[list[Message]]:
    """Conversations about the identity without end, in one language and the other by turns."""
    dealers = [_Dealer(identity, language, generator) for language in LANGUAGES]
    while True:
        for dealer in dealers:
            yield dealer.deal()


def own_dialogues(part: str) -> list[list[Message]]:
    """The toolkit's own conversations of both languages: `general` or `near`."""
    return [conversation(texts) for language in LANGUAGES for texts in getattr(wording(language), part)]


def tutorial_dialogue(identity: Identity, language: str) -> list[Message]:
    """The one exchange that beginners' tutorials repeat."""
    topic: Topic = wording(language).topics["who"]
    return conversation([fill(text, own_values(identity, language))
                         for text in (topic.questions[0], topic.answers[0])])


def held_out_questions(identity: Identity) -> list[MeasuredQuestion]:
    """All questions of measurement; of each topic the first one stands beside system prompts too."""
    return [MeasuredQuestion(**question) for language in LANGUAGES
            for question in _held_out(identity, language)]


def _held_out(identity: Identity, language: str) -> Iterator[dict[str, Any]]:
    texts, own = wording(language), own_values(identity, language)
    foreign = foreign_values(identity, language)
    for name, topic in texts.topics.items():
        facts = {"kind": IDENTITY, "topic": name, "language": language, "wanted": topic.wanted}
        for place, text in enumerate(topic.held_out):
            asked = {"role": USER, "content": fill(text, own | foreign[place])}
            yield facts | {"messages": [asked]}
            for system in texts.held_out_systems if place == 0 else ():
                yield facts | {"messages": [{"role": SYSTEM, "content": system}, asked]}
    for topic, questions in (("general", texts.general_held_out), ("near", texts.near_held_out)):
        for text in questions:
            yield {"kind": GENERAL, "topic": topic, "language": language,
                   "messages": [{"role": USER, "content": text}]}


def identity_questions(identity: Identity) -> Iterator[str]:
    """Every question about the identity, of training and of measurement, for every other assistant."""
    for language in LANGUAGES:
        own = own_values(identity, language)
        for topic in wording(language).topics.values():
            for text in (*topic.questions, *topic.follow_ups, *topic.held_out):
                yield from {fill(text, own | foreign) for foreign in foreign_values(identity, language)}
