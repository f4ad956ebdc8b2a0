"""Multiple-choice questions as data_preprocess.py works on them, read from an alpaca json.

Items of mmlu_cmmlu_csv2json.py carry structured fields, and those are what counts. Items with the three
alpaca keys only (the official converter's) are read back by prompts.parse_choice_input, which finds every
reading; an item that has none or more than one is refused.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Any

from research_internlm.data.choice import (
    LETTERS,
    choice_input,
    choice_instruction,
    choice_output,
    parse_choice_input,
)
from research_internlm.shared.errors import ToolkitError

_BEFORE_DOMAIN, _AFTER_DOMAIN = choice_instruction("\0").split("\0")
_CJK = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_STRUCTURED = {"source": str, "subject": str, "question": str, "options": list, "answer": str}


class Unreadable(ValueError):
    """An item whose text does not say which question it is; the message says why."""


@dataclass(frozen=True)
class Question:
    """One question, its options in their own order.

    Attributes:
        name: `mmlu/college_physics/test/12`; item numbers stand in where split and row are unknown.
        source: `mmlu` or `cmmlu`.
        subject: `college_physics`.
        instruction: The item's instruction, as it was.
        text: The question.
        options: Four texts.
        answer: Index of the right one, 0 to 3.
        origin: `split`, `file` and `row`, as far as known.
    """

    name: str
    source: str
    subject: str
    instruction: str
    text: str
    options: tuple[str, ...]
    answer: int
    origin: tuple[tuple[str, Any], ...] = ()

    @property
    def category(self) -> tuple[str, str]:
        """(source, subject): some subjects occur in both sources."""
        return self.source, self.subject

    @property
    def identity(self) -> str:
        """Equal for questions that differ at most in case, spaces, punctuation or Unicode form.

        The real sets hold such pairs ("60 岁" and "60岁"). A question put with another by mistake only
        shares its side of a split.
        """
        return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", self.text).casefold())

    def item(self, order: tuple[int, ...], ordering: int) -> dict[str, Any]:
        """The question as an item of an output file.

        Args:
            order: order[i] is the original place of the option shown at place i.
            ordering: Number of the ordering, from 1; 1 is the original.

        Returns:
            Alpaca keys first, the output completed by the option's text; the structured fields follow
            the new order.
        """
        options = [self.options[place] for place in order]
        letter = LETTERS[order.index(self.answer)]
        return {
            "instruction": self.instruction,
            "input": choice_input(self.text, options),
            "output": choice_output(letter, self.options[self.answer]),
            "id": self.name,
            "ordering": ordering,
            "source": self.source,
            "subject": self.subject,
            **dict(self.origin),
            "question": self.text,
            "options": options,
            "answer": letter,
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """A question in one of its orders; rendered when it is written, since six hundred bytes a copy add up.

    Attributes:
        question: The question.
        order: order[i] is the original place of the option shown at place i.
        ordering: Number of the ordering, from 1.
    """

    question: Question
    order: tuple[int, ...]
    ordering: int

    def item(self) -> dict[str, Any]:
        """The item of the output file."""
        return self.question.item(self.order, self.ordering)


def read_items(items: Any, where: str) -> tuple[list[Question], list[dict[str, Any]]]:
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
    questions: list[Question] = []
    unreadable: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        if not (isinstance(item, dict)
                and all(isinstance(item.get(key), str) for key in ("instruction", "input", "output"))):
            raise ToolkitError(f"{where} item {index} lacks instruction, input and output as texts; make the "
                               "file with preprocess/mmlu_cmmlu_csv2json.py")
        try:
            questions.append(_from_fields(item) if "options" in item else _from_text(item, index))
        except Unreadable as error:
            unreadable.append({"index": index, "reason": str(error)})
    return _name_sources(questions), unreadable


def _from_fields(item: dict[str, Any]) -> Question:
    wrong = [key for key, kind in _STRUCTURED.items() if not isinstance(item.get(key), kind)]
    if wrong:
        raise Unreadable(f"has options, but {', '.join(wrong)} missing or of another type")
    options = item["options"]
    if len(options) != len(LETTERS) or not all(isinstance(option, str) for option in options):
        raise Unreadable("options are not four texts")
    if item["answer"] not in LETTERS:
        raise Unreadable(f"answer {item['answer']!r} is not one of {'/'.join(LETTERS)}")
    if item["input"] != choice_input(item["question"], options):
        raise Unreadable("input is not what question and options render to")
    answer = LETTERS.index(item["answer"])
    _check_output(item["output"], options, answer)
    origin = tuple((key, item[key]) for key in ("split", "file", "row") if key in item)
    place = "/".join(str(item[key]) for key in ("split", "row") if key in item)
    name = "/".join(part for part in (item["source"], item["subject"], place) if part)
    return Question(name, item["source"], item["subject"], item["instruction"], item["question"],
                    tuple(options), answer, origin)


def _from_text(item: dict[str, Any], index: int) -> Question:
    instruction = item["instruction"]
    domain = instruction.removeprefix(_BEFORE_DOMAIN).removesuffix(_AFTER_DOMAIN)
    if instruction != choice_instruction(domain):
        raise Unreadable("the instruction is not the official one")
    readings = parse_choice_input(item["input"])
    if len(readings) != 1:
        raise Unreadable("the input can be read in more than one way" if readings
                         else "the input is not a question with options A to D")
    text, options = readings[0]
    if not all(option.strip() for option in options):
        raise Unreadable("an option is empty")
    letter = item["output"].removeprefix(choice_output("\0").split("\0")[0])[:1]
    if letter not in LETTERS:
        raise Unreadable("the output names none of the options A to D")
    answer = LETTERS.index(letter)
    _check_output(item["output"], options, answer)
    return Question(str(index + 1), "", domain.replace(" ", "_"), instruction, text, tuple(options), answer)


def _check_output(output: str, options: list[str], answer: int) -> None:
    letter = LETTERS[answer]
    if output not in (choice_output(letter), choice_output(letter, options[answer])):
        raise Unreadable(f"the output is neither {choice_output(letter)!r} nor that plus option {letter}")


def _name_sources(questions: list[Question]) -> list[Question]:
    """Gives questions known from alpaca fields alone their source.

    The official file holds each category in one run, so a run of one subject is one category, and it is
    CMMLU's where most of its questions hold Chinese characters (one CMMLU question in 5,889 has none).
    """
    named: list[Question] = []
    for (source, subject), run in itertools.groupby(questions, key=lambda question: question.category):
        members = list(run)
        if not source:
            chinese = sum(bool(_CJK.search(member.text + "".join(member.options))) for member in members)
            source = "cmmlu" if 2 * chinese > len(members) else "mmlu"
            members = [replace(member, source=source, name=f"{source}/{subject}/{member.name}")
                       for member in members]
        named += members
    return named
