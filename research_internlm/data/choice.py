"""Multiple-choice questions: their wording in prompts, and the one reader of the items that hold them.

An item of our own files carries the question beside the three alpaca texts, and those fields are what counts.
The texts of foreign items are read back strictly: an item with no reading, or with several, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sentencepiece

from research_internlm.shared.errors import ToolkitError

EXAM_WORDING = "exam-1"  # goes into manifests; raise it when a string below changes
LETTERS = ("A", "B", "C", "D")
_QUESTION = "Question: "
ALPACA_KEYS = ("instruction", "input", "output")
_FIELDS = ("source", "subject", "question", "options", "answer")
_ORIGIN = ("split", "file", "row")
# Fields of our own items that no prompt shows: where an item comes from, and its question in parts.
_NOTES = frozenset({*_FIELDS, *_ORIGIN, "id", "ordering"})
ANSWER_PHRASE = "The right option is"  # asked for in the instruction, read by the answer extractor


def require_shown(item: Mapping[str, Any], shown: Sequence[str]) -> None:
    """Checks that the prompt of an item leaves nothing of it out.

    Args:
        item: The parsed item.
        shown: The fields that its prompt and answer are made of.

    Raises:
        ToolkitError: Other fields hold something, for example `system` or `history`. The caller names the
            item.
    """
    lost = [str(key) for key, value in item.items()
            if key not in shown and key not in _NOTES and value not in (None, "", [], {})]
    if lost:
        raise ToolkitError(f"its prompt has no place for {', '.join(lost)}, which would be lost: remove "
                           f"{'it' if len(lost) == 1 else 'them'}, or make the content part of "
                           f"{' or '.join(shown[:2])}")


def choice_instruction(domain: str) -> str:
    """The `instruction` field of a multiple-choice item."""
    return (
        f"Here is a question about {domain}, the correct answer is one of the options A/B/C/D. "
        f"Please select the correct option and answer the question with '{ANSWER_PHRASE}'."
    )


def choice_input(question: str, options: Sequence[str]) -> str:
    """The `input` field: the question and its four options, in order."""
    return f"{_QUESTION}{question} " + "".join(
        f"\n{letter}.{option}" for letter, option in zip(LETTERS, options, strict=True)
    )


def choice_output(letter: str, option: str = "") -> str:
    """The `output` field: the letter, completed by the option's text in the report's recipe."""
    return f"{ANSWER_PHRASE} {letter}.{option}"


def parse_choice_input(text: str) -> list[tuple[str, list[str]]]:
    r"""Every way to read an `input` field as `choice_input` of something.

    There is more than one where the question or an option itself holds a "\nA." or its like; the caller
    decides (usually: refuses). No text is searched twice for a reading that cannot be completed.

    Args:
        text: The `input` field.

    Returns:
        (question, four options) pairs, each of which `choice_input` renders back to `text`; in the order
        of their first differing marker, and none where the text is not in the format.
    """
    if not text.startswith(_QUESTION):
        return []
    # Markers from D back to A, each kept only where a complete rest follows it.
    markers: list[list[int]] = []
    for letter in reversed(LETTERS):
        last = markers[0][-1] if markers else len(text)
        places = [match.start() for match in re.finditer(rf"\n{letter}\.", text[:last])]
        if letter == LETTERS[0]:
            places = [place for place in places if place > len(_QUESTION) and text[place - 1] == " "]
        if not places:
            return []
        markers.insert(0, places)
    return [
        (text[len(_QUESTION):places[0] - 1],
         [text[start + len("\nA."):end]
          for start, end in zip(places, (*places[1:], len(text)), strict=True)])
        for places in _rising(markers)
    ]


def _rising(choices: Sequence[Sequence[int]], above: int = -1) -> Iterator[tuple[int, ...]]:
    """All strictly rising picks of one number from each (sorted) sequence."""
    if not choices:
        yield ()
        return
    for number in choices[0]:
        if number > above:
            for rest in _rising(choices[1:], number):
                yield (number, *rest)


def parse_choice_output(text: str) -> tuple[str, str] | None:
    """Reads an `output` field back: the letter and the option's text after it ("" where there is none).

    Returns:
        None where the text is not exactly what `choice_output` writes.
    """
    for letter in LETTERS:
        start = choice_output(letter)
        if text.startswith(start):
            return letter, text.removeprefix(start)
    return None


def parse_choice(input_text: str, output: str) -> tuple[str, list[str], str]:
    """Reads an alpaca item that carries no structured fields back, or refuses.

    An output completed with the option's text settles which of several readings of the input is meant.

    Args:
        input_text: The `input` field.
        output: The `output` field.

    Returns:
        Question, four options in the order shown, letter of the right one.

    Raises:
        ToolkitError: Not in the format, or more than one reading is left.
    """
    answer = parse_choice_output(output)
    if answer is None:
        raise ToolkitError(f"output {output!r} is not '{ANSWER_PHRASE} X.' with X in {'/'.join(LETTERS)}")
    letter, completion = answer
    readings = [
        (question, options) for question, options in parse_choice_input(input_text)
        if completion in ("", options[LETTERS.index(letter)])
    ]
    if len(readings) != 1:
        found = f"{len(readings)} readings" if readings else "no reading"
        raise ToolkitError(
            f"input {input_text!r} with output {output!r} has {found} as 'Question: ... A. B. C. D.'; give "
            f"the item its structured fields ({', '.join(_FIELDS)})"
        )
    return (*readings[0], letter)


@dataclass(frozen=True)
class ChoiceQuestion:
    """One multiple-choice question with its options in one order.

    Attributes:
        id: What results and messages call it.
        instruction: The alpaca `instruction` field, as it goes into the prompt.
        text: The question.
        options: The four options in the order shown.
        answer: Letter of the right one.
        source: `mmlu`, `cmmlu` or whatever the file says; "" where it says nothing.
        subject: The subject within the source, likewise.
        origin: `split`, `file` and `row` with their values, as far as known.
    """

    id: str
    instruction: str
    text: str
    options: tuple[str, ...]
    answer: str
    source: str = ""
    subject: str = ""
    origin: tuple[tuple[str, Any], ...] = ()

    @property
    def input(self) -> str:
        """The alpaca `input` field, as it goes into the prompt."""
        return choice_input(self.text, self.options)

    @property
    def category(self) -> tuple[str, str]:
        """(source, subject): some subjects occur in both sources."""
        return self.source, self.subject

    def item(self, completed: bool, **names: Any) -> dict[str, Any]:
        """The question as an item of a JSON file.

        Args:
            completed: Whether the output holds the right option's text after its letter.
            **names: Fields of the file's own, between the alpaca texts and the question.
        """
        option = self.options[LETTERS.index(self.answer)] if completed else ""
        return {
            "instruction": self.instruction,
            "input": self.input,
            "output": choice_output(self.answer, option),
            **names,
            "source": self.source,
            "subject": self.subject,
            **dict(self.origin),
            "question": self.text,
            "options": list(self.options),
            "answer": self.answer,
        }


def read_choice(item: Any, place: str) -> ChoiceQuestion:
    """Reads an item of a JSON file: ours with the question in fields, or a foreign one with its texts only.

    Args:
        item: The parsed item; it is ours where it has `options`.
        place: The question's id where the item has none.

    Raises:
        ToolkitError: A field is missing, of another type or without a place in the prompt, the fields
            contradict the texts, or the texts alone have no reading or several. The caller names the file and
            the item.
    """
    if not isinstance(item, Mapping):
        raise ToolkitError(f"is {type(item).__name__}, not an object with {', '.join(ALPACA_KEYS)}")
    wanted = ALPACA_KEYS + (_FIELDS if "options" in item else ())
    if missing := [field for field in wanted if field not in item]:
        raise ToolkitError(f"lacks {', '.join(missing)}")
    if odd := [field for field in wanted if field != "options" and not isinstance(item[field], str)]:
        raise ToolkitError(f"{', '.join(odd)} must be text")
    require_shown(item, ALPACA_KEYS)
    id_ = str(item.get("id", place))
    if "options" not in item:
        text, options, answer = parse_choice(item["input"], item["output"])
        return ChoiceQuestion(id_, item["instruction"], text, tuple(options), answer)
    _check_fields(item)
    return ChoiceQuestion(id_, item["instruction"], item["question"], tuple(item["options"]), item["answer"],
                          item["source"], item["subject"],
                          tuple((key, item[key]) for key in _ORIGIN if key in item))


def _check_fields(item: Mapping[str, Any]) -> None:
    """Checks the question's fields against the texts the model is shown."""
    options, answer = item["options"], item["answer"]
    if (not isinstance(options, list) or len(options) != len(LETTERS)
            or not all(isinstance(option, str) for option in options)):
        raise ToolkitError(f"options are {options!r}, not a list of {len(LETTERS)} texts")
    if answer not in LETTERS:
        raise ToolkitError(f"answer is {answer!r}, not one of {'/'.join(LETTERS)}")
    if choice_input(item["question"], options) != item["input"]:
        raise ToolkitError("its input is not its question and options in their order")
    if parse_choice_output(item["output"]) not in ((answer, ""), (answer, options[LETTERS.index(answer)])):
        raise ToolkitError(f"its output {item['output']!r} disagrees with its answer {answer}")


def answer_position(
    options: Sequence[str], processor: sentencepiece.SentencePieceProcessor
) -> tuple[list[int], list[int]]:
    """Where the letter is decided, for scoring the four letters in one forward pass.

    The four possible outputs are encoded as training encodes them; they agree up to the letter.

    Args:
        options: The four option texts in the order shown.
        processor: The loaded vocabulary.

    Returns:
        Ids that stand between the prompt and the letter (shared by all four outputs), and the four
        letters' ids, A to D.

    Raises:
        ToolkitError: The vocabulary does not give the four letters ids of their own.
    """
    encoded = [processor.encode(choice_output(letter, option))
               for letter, option in zip(LETTERS, options, strict=True)]
    place = 0
    while all(len(ids) > place for ids in encoded) and len({ids[place] for ids in encoded}) == 1:
        place += 1
    letters = [ids[place] for ids in encoded if len(ids) > place]
    if len(set(letters)) != len(LETTERS):
        raise ToolkitError(
            f"this vocabulary does not tell the letters {'/'.join(LETTERS)} apart at one position "
            f"(token ids {letters} for options {list(options)!r}); use --mode generate"
        )
    return encoded[0][:place], letters
