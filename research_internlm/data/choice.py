"""Multiple-choice questions: their wording in prompts, and reading that wording back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import sentencepiece

from research_internlm.shared.errors import ToolkitError

LETTERS = ("A", "B", "C", "D")
_QUESTION = "Question: "
ANSWER_PHRASE = "The right option is"  # asked for in the instruction, read by the answer extractor


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
    """Reads an `output` field back: the letter and the option's text behind it ("" where there is none).

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
            "the item its structured fields (question, options, answer)"
        )
    return (*readings[0], letter)


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
