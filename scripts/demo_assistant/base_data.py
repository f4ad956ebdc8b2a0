"""What the assistant demo's base model has read: everyday conversations, and who it is itself.

    python scripts/demo_assistant/base_data.py --output_dir DIR

A released chat model answers everyday questions and has an identity of its own, which LoRA is to replace. So
has this one, and it knows the wording of preprocess/assistant: LoRA has a name to change and no language to
teach. Where a system prompt gives it another identity, it takes that one; the name that LoRA teaches is among
those, because a frozen head hardly learns to say a token that it has never said. DIR/base.json is what the
base is trained on; DIR/general.json are general conversations of the same wording for
preprocess/assistant_data.py. No held-out question is in either. The wording is in base_zh.json and
base_en.json: alternatives in brackets, places in braces.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.assistant.dialogues import held_out_questions, identity_dialogues, own_dialogues
from preprocess.assistant.mixture import plain
from preprocess.assistant.wording import LANGUAGES, fill, foreign_values, own_values, wording
from research_internlm.data.conversations import MESSAGES, Message
from research_internlm.data.families import ASSISTANT, SYSTEM, USER
from research_internlm.data.identity import Identity
from research_internlm.shared import schema
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import write_json

IDENTITY_SHARE = 0.33  # of the base's conversations: about an identity
OWN_NAME_SHARE = 0.6  # of those about an identity: the base's own, half in dialogues of preprocess/assistant
NEAR_SHARE = 0.15  # of the base's other conversations: the toolkit's own general and near ones


@dataclass(frozen=True)
class Topic:
    """Questions about the identity; their answers are those of preprocess/assistant."""

    questions: list[str]


@dataclass(frozen=True)
class Everyday:
    """A general question; of `facts` a key goes into {0} and its value into {1}."""

    question: str
    answer: str
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseWording:
    """The texts of one language.

    Attributes:
        assistants: Names and authors, the base's own first.
        role: The system prompt that gives the base one of the others.
        identity: Questions about an identity by their topic.
        systems: System prompts beside which it keeps its own.
        general: Everyday questions.
    """

    assistants: dict[str, str]
    role: str
    identity: dict[str, Topic]
    systems: list[str]
    general: list[Everyday]


@functools.cache
def base_wording(language: str) -> BaseWording:
    """The texts of a language."""
    return schema.read(Path(__file__).with_name(f"base_{language}.json"), BaseWording, "the base's wording")


def say(pattern: str, rng: random.Random) -> str:
    """One of the texts of a pattern, innermost brackets first."""
    while "(" in pattern:
        pattern = re.sub(r"\(([^()]*)\)", lambda found: rng.choice(found[1].split("|")), pattern)
    return re.sub(r" +([.?!,])", r"\1", pattern).strip()


def exchange(question: str, answer: str) -> list[Message]:
    """A question and its answer, each with a capital first letter."""
    return [{"role": role, "content": text[:1].upper() + text[1:]}
            for role, text in ((USER, question), (ASSISTANT, answer))]


def identities() -> list[Identity]:
    """The base's own identity and then the others that it has read of."""
    pairs = (zip(*(base_wording(language).assistants.items() for language in ("zh", "en")), strict=True))
    return [Identity(name_zh=zh[0], author_zh=zh[1], name_en=en[0], author_en=en[1]) for zh, en in pairs]


def about(identity: Identity, language: str, rng: random.Random) -> list[Message]:
    """A question about an identity in the base's wording."""
    topic = rng.choice(list(base_wording(language).identity))
    values = own_values(identity, language) | rng.choice(foreign_values(identity, language))
    question = say(rng.choice(base_wording(language).identity[topic].questions), rng)
    return exchange(fill(question, values), fill(rng.choice(wording(language).topics[topic].answers), values))


def everyday(language: str, rng: random.Random) -> list[Message]:
    """A general question."""
    chosen = rng.choice(base_wording(language).general)
    key, value = rng.choice(list(chosen.facts.items())) if chosen.facts else ("", "")
    return exchange(*(text.replace("{0}", key).replace("{1}", value)
                      for text in (say(chosen.question, rng), chosen.answer)))


def conversations(rng: random.Random, identity_share: float) -> Iterator[list[Message]]:
    """Conversations without end: some after a system prompt, some after another question."""
    own, *others = identities()
    dialogues = identity_dialogues(own, rng)
    near = [*own_dialogues("general"), *own_dialogues("near")]
    while True:
        language, kind = rng.choice(LANGUAGES), rng.random()
        if kind < identity_share * (1 - OWN_NAME_SHARE):
            identity = rng.choice(others)
            role = fill(base_wording(language).role, own_values(identity, language))
            yield [{"role": SYSTEM, "content": role}, *about(identity, language, rng)]
            continue
        if kind < identity_share * (1 - OWN_NAME_SHARE / 2):
            yield next(dialogues)
            continue
        if kind < identity_share:
            messages = about(own, language, rng)
        elif identity_share and rng.random() < NEAR_SHARE:
            messages = rng.choice(near)
        else:
            messages = everyday(language, rng)
        shape = rng.random()
        if shape < 0.2:
            system = say(rng.choice(base_wording(language).systems), rng)
            other = {"other": rng.choice(wording(language).others)}
            messages = [{"role": SYSTEM, "content": fill(system, other)}, *messages]
        elif shape < 0.3:
            messages = [*everyday(language, rng), *messages]
        yield messages


def held_out() -> set[str]:
    """The questions of measurement, as `plain` has them."""
    return {plain(question.messages[-1]["content"]) for question in held_out_questions(identities()[0])}


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, metavar="DIR")
    add("--base", type=int, default=6000, metavar="N",
        help="conversations of the base (default: %(default)s)")
    add("--general", type=int, default=1500, metavar="N", help="general ones (default: %(default)s)")
    add("--seed", type=int, default=42, help="of every choice (default: %(default)s)")
    arguments = parser.parse_args(argv)
    refused, rng = held_out(), random.Random(arguments.seed)
    for name, count, share in (("base", arguments.base, IDENTITY_SHARE), ("general", arguments.general, 0.0)):
        made: list[list[Message]] = []
        source = conversations(rng, share)
        while len(made) < count:
            messages = next(source)
            if not any(plain(message["content"]) in refused for message in messages):
                made.append(messages)
        path = arguments.output_dir / f"{name}.json"
        write_json(path, [{MESSAGES: messages} for messages in made])
        print(f"{count} conversations -> {path}")
    return 0


if __name__ == "__main__":
    run_main(main)
