"""The two ways to set questions aside for validation and test.

`sixth_ordering` is the report's: validation and test show training questions in an order that training did
not show. It measures memory. `held_out` sets whole questions aside, with everything that asks the same, so
that no question text is on two sides. Whatever reads the files finds in the manifest which one it was.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from preprocess.exam.questions import OrderedQuestion
from research_internlm.data.choice import ChoiceQuestion

EVALUATION_KIND = {"sixth_ordering": "reordered_train_questions", "held_out": "held_out"}

Orders = Sequence[Sequence[tuple[int, ...]]]  # per question, its orders


@dataclass
class Split:
    """What goes into the three files.

    Attributes:
        train: Ordering by ordering: all questions in their first order, then all in their second, ...
        valid: Validation items.
        test: Test items.
        unused: Items in none of the three (the rest of the last ordering).
    """

    train: list[OrderedQuestion] = field(default_factory=list)
    valid: list[OrderedQuestion] = field(default_factory=list)
    test: list[OrderedQuestion] = field(default_factory=list)
    unused: int = 0


def sixth_ordering(
    questions: Sequence[ChoiceQuestion], orders: Orders, valid_places: int, test_places: int,
    generator: random.Random,
) -> Split:
    """The report's split.

    Args:
        questions: All questions.
        orders: For each, its orders, two or more.
        valid_places: Validation items per category.
        test_places: Test items per category.
        generator: Shuffles the last ordering within each category.

    Returns:
        Training: all orderings but the last, of every question. Validation and test: the first
        and the next items of each category's shuffled last ordering.
    """
    last = len(orders[0]) - 1
    split = Split(train=_show(questions, [list(own)[:last] for own in orders]))
    by_category: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        by_category[question.category].append(index)
    for members in by_category.values():
        generator.shuffle(members)
        items = [OrderedQuestion(questions[index], orders[index][last], last + 1) for index in members]
        split.valid += items[:valid_places]
        split.test += items[valid_places:valid_places + test_places]
        split.unused += len(items[valid_places + test_places:])
    return split


def held_out(
    questions: Sequence[ChoiceQuestion], orders: Orders, valid_places: int, test_places: int,
    generator: random.Random,
) -> Split:
    """Whole questions set aside; the same arguments as `sixth_ordering`.

    Questions of one identity are a group, across categories and sources, and a group goes to one side as
    a whole. A group that does not fit the places left in every category it touches stays in training.

    Returns:
        Validation and test: set-aside questions in their own order. Training: all orderings of the rest.
    """
    sides = _assign_sides(questions, {"valid": valid_places, "test": test_places}, generator)
    kept = [index for index in range(len(questions)) if index not in sides]
    aside = {side: [OrderedQuestion(questions[index], orders[index][0], 1)
                    for index in sorted(sides) if sides[index] == side] for side in ("valid", "test")}
    return Split(_show([questions[index] for index in kept], [orders[index] for index in kept]), **aside)


def identity_of(question: ChoiceQuestion) -> str:
    """Equal for questions that differ at most in case, spaces, punctuation or Unicode form.

    The real sets hold such pairs ("60 岁" and "60岁"). A question put with another by mistake only
    shares its side of a split.
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", question.text).casefold())


def _assign_sides(
    questions: Sequence[ChoiceQuestion], places: dict[str, int], generator: random.Random
) -> dict[int, str]:
    """Chooses the questions to set aside: {index of the question: side}."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        groups[identity_of(question)].append(index)
    by_category: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)  # ordered sets of identities
    for identity, members in groups.items():
        for index in members:
            by_category[questions[index].category][identity] = None
    shuffled = {}
    for category in by_category:
        shuffled[category] = list(by_category[category])
        generator.shuffle(shuffled[category])
    sides: dict[int, str] = {}
    for side, count in places.items():
        left = Counter({category: count for category in by_category})
        for identity in (identity for identities in shuffled.values() for identity in identities):
            members = groups[identity]
            need = Counter(questions[index].category for index in members)
            if members[0] not in sides and all(left[category] >= n for category, n in need.items()):
                left -= need  # a category that reaches zero leaves the Counter, and then reads as zero
                sides |= dict.fromkeys(members, side)
    return sides


def _show(questions: Sequence[ChoiceQuestion], orders: Orders) -> list[OrderedQuestion]:
    rounds = len(orders[0]) if orders else 0
    return [OrderedQuestion(question, own[turn], turn + 1)
            for turn in range(rounds) for question, own in zip(questions, orders, strict=True)]
