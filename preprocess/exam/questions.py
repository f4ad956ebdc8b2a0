"""Multiple-choice questions as data_preprocess.py works on them, read from an alpaca json.

The reader is data/choice.py's. Added here is what the splits need: a category for every question, which a
foreign item (the official converter's) states in its instruction only.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

from research_internlm.data.choice import LETTERS, ChoiceQuestion, choice_instruction, read_choice
from research_internlm.shared.errors import ToolkitError

_BEFORE_DOMAIN, _AFTER_DOMAIN = choice_instruction("\0").split("\0")
_CJK = re.compile("[\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class OrderedQuestion:
    """A question in one of its orders; rendered when it is written, since six hundred bytes a copy add up.

    Attributes:
        question: The question, its options in their own order.
        order: order[i] is the original place of the option shown at place i.
        ordering: Number of the ordering, from 1; 1 is the original.
    """

    question: ChoiceQuestion
    order: tuple[int, ...]
    ordering: int

    def item(self) -> dict[str, Any]:
        """The item of the output file: in the new order, the output completed by the option's text."""
        question = self.question
        shown = replace(question, options=tuple(question.options[place] for place in self.order),
                        answer=LETTERS[self.order.index(LETTERS.index(question.answer))])
        return shown.item(completed=True, id=question.id, ordering=self.ordering)


def read_items(items: Any, where: str) -> tuple[list[ChoiceQuestion], list[dict[str, Any]]]:
    """Reads the items of an alpaca json.

    Args:
        items: The parsed json.
        where: The file, for messages.

    Returns:
        The questions, in order; and for each unreadable item its `index` (from 0) and `reason`.

    Raises:
        ToolkitError: Not a list of alpaca items.
    """
    if not isinstance(items, list) or not items:
        raise ToolkitError(f"{where} is not a list of items; make it with preprocess/mmlu_cmmlu_csv2json.py")
    questions: list[ChoiceQuestion] = []
    unreadable: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get("input") is None:
            item = {**item, "input": ""}
        if not (isinstance(item, dict)
                and all(isinstance(item.get(key), str) for key in ("instruction", "input", "output"))):
            raise ToolkitError(f"{where} item {index} lacks instruction, input and output as texts; make the "
                               "file with preprocess/mmlu_cmmlu_csv2json.py")
        try:
            questions.append(_named(read_choice(item, ""), index))
        except ToolkitError as error:
            unreadable.append({"index": index, "reason": str(error)})
    return _name_sources(questions), unreadable


def _named(question: ChoiceQuestion, index: int) -> ChoiceQuestion:
    """The question with the id it gets in the output, and a subject.

    Raises:
        ToolkitError: A foreign item whose instruction names no subject, or with an empty option, which the
            csv files are not allowed either.
    """
    if question.source:
        origin = dict(question.origin)
        place = [str(origin[key]) for key in ("split", "row") if key in origin]
        return replace(question, id="/".join(filter(None, (question.source, question.subject, *place))))
    domain = question.instruction.removeprefix(_BEFORE_DOMAIN).removesuffix(_AFTER_DOMAIN)
    if question.instruction != choice_instruction(domain):
        raise ToolkitError("the instruction is not the official one, so the subject is unknown")
    if not all(option.strip() for option in question.options):
        raise ToolkitError("an option is empty")
    return replace(question, id=str(index + 1), subject=domain.replace(" ", "_"))


def _name_sources(questions: list[ChoiceQuestion]) -> list[ChoiceQuestion]:
    """Gives questions known from alpaca fields alone their source.

    The official file holds each category in one run, so a run of one subject is one category, and it is
    CMMLU's where most of its questions hold Chinese characters (one CMMLU question in 5,889 has none).
    """
    named: list[ChoiceQuestion] = []
    for (source, subject), run in itertools.groupby(questions, key=lambda question: question.category):
        members = list(run)
        if not source:
            chinese = sum(bool(_CJK.search(member.text + "".join(member.options))) for member in members)
            source = "cmmlu" if 2 * chinese > len(members) else "mmlu"
            members = [replace(member, source=source, id=f"{source}/{subject}/{member.id}")
                       for member in members]
        named += members
    return named
