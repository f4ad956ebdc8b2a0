"""The owner of every prompt: chat wrapper, multiple-choice wording, SQuAD wording.

One function renders a sample into segments; training encodes all of them, inference encodes the prefix
before the first supervised one. So the prompt at inference is the prompt in training by construction.

Segments are encoded one by one, each with SentencePiece's own dummy prefix, because the records everyone
starts from are made that way (research/internlm/alpaca_data_preprocess.py); joining the text first gives
other ids.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import sentencepiece

from research_internlm.errors import ToolkitError
from research_internlm.tokens import INTERNLM, INTERNLM2, SpecialTokens

PROMPT_VERSION = "internlm-chat-1"  # goes into manifests; raise it when any string below changes

# How a chat answer may end, by roles of special tokens; the first is what everyone trains with. With a frozen
# head a base model may never learn to say <eoa>, while </s> it has seen all its life (notes, trap 10).
# Generation stops at either.
UPSTREAM_END = "eoa"
END_MARKERS = MappingProxyType({
    INTERNLM: MappingProxyType({"eoa": ("eoa", "newline", "eos"), "eos": ("eos",)}),
    INTERNLM2: MappingProxyType({"eoa": ("eoa",), "eos": ("eos",)}),
})

LETTERS = ("A", "B", "C", "D")

_USER = "<|User|>:"
_BOT = "<|Bot|>:"
_QUESTION = "Question: "
ANSWER_PHRASE = "The right option is"  # asked for in the instruction, read by the answer extractor


@dataclass(frozen=True)
class Segment:
    """A piece of a sample.

    Attributes:
        content: Text to be encoded, or the role of a special token.
        is_token: True where `content` is a role such as `eoh`.
        supervised: Whether the model is trained to produce it.
    """

    content: str
    is_token: bool = False
    supervised: bool = False


@functools.cache
def _token(role: str, supervised: bool = False) -> Segment:
    return Segment(role, is_token=True, supervised=supervised)


def prompt_version(end: str = UPSTREAM_END) -> str:
    """What a manifest says of samples whose chat answers end in `end`; the prompts are the same."""
    return PROMPT_VERSION if end == UPSTREAM_END else f"{PROMPT_VERSION}+{end}"


def render_chat(instruction: str, input_text: str, output: str | None = None, family: str = INTERNLM,
                end: str = UPSTREAM_END) -> list[Segment]:
    """Renders one alpaca item as a chat turn of its family.

    Args:
        instruction: The `instruction` field.
        input_text: The `input` field; an empty one adds no newline.
        output: The `output` field, or None for the inference prompt.
        family: `SpecialTokens.family` of the tokenizer.
        end: How the answer ends, a key of END_MARKERS[family].

    Returns:
        Segments; with an output, those before the first supervised one are the inference prompt.
    """
    user = f"{instruction}\n{input_text}" if input_text else instruction
    if family == INTERNLM2:
        # chat_template in the tokenizer_config.json of the InternLM2 releases, without a system turn.
        prompt = [_token("bos"), _token("turn"), Segment(f"user\n{user}"), _token("eoh"), Segment("\n"),
                  _token("turn"), Segment("assistant\n")]
    else:
        prompt = [_token("bos"), Segment(_USER + user), _token("eoh"), _token("newline"), Segment(_BOT)]
    if output is None:
        return prompt
    return [*prompt, Segment(output, supervised=True),
            *(_token(role, True) for role in END_MARKERS[family][end])]


def render_squad(passage: str, question: str, answer: str | None = None) -> list[Segment]:
    """The contest's SQuAD prompt: plain text behind `<s>`, no chat tokens.

    Args:
        passage: The paragraph.
        question: The question on it.
        answer: The answer to train on, ended by `</s>`, or None for the inference prompt.

    Source: mindformers/tools/dataset_preprocess/llama/squad_data_process.py, which trains on the last
    token of the prompt as well; here the prompt is never supervised.
    """
    prompt = [_token("bos"), Segment(
        "Read the passage and answer the question below.\n\n"
        f"### Instruction:\n{passage}\n\n### Input:\n{question}\n\n### Response:"
    )]
    if answer is None:
        return prompt
    return [*prompt, Segment(answer, supervised=True), _token("eos", True)]


def render_item(item: Mapping[str, str], family: str = INTERNLM, end: str = UPSTREAM_END) -> list[Segment]:
    """Renders a training item: alpaca fields, or `passage`, `question`, `output` in the SQuAD prompt.

    Reading items among the exam items keep up what the SQuAD gate measures.
    """
    if "passage" in item:
        return render_squad(item["passage"], item["question"], item["output"])
    return render_chat(item["instruction"], item["input"], item["output"], family, end)


def encode(
    segments: Sequence[Segment],
    processor: sentencepiece.SentencePieceProcessor,
    special: SpecialTokens,
) -> tuple[list[int], list[bool]]:
    """Encodes segments one by one.

    Args:
        segments: From a render function.
        processor: The loaded vocabulary.
        special: Its special ids.

    Returns:
        Token ids and, for each, whether it is supervised; both of length n.
    """
    ids: list[int] = []
    supervised: list[bool] = []
    for segment in segments:
        piece = [special[segment.content]] if segment.is_token else processor.encode(segment.content)
        ids += piece
        supervised += [segment.supervised] * len(piece)
    return ids, supervised


# Multiple choice: the official converter's strings, to the space before the first newline.


def domain_of(file_name: str) -> str:
    """The subject as the prompt names it: `college_physics_test.csv` is `college physics`."""
    stem = file_name.removesuffix(".csv")
    for split in ("_dev", "_test", "_val"):
        stem = stem.removesuffix(split)
    return stem.replace("_", " ")


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
