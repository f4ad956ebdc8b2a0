"""The owner of every prompt: chat wrapper, multiple-choice wording, SQuAD wording.

One function renders a sample into segments; training encodes all of them, inference encodes the prefix
before the first supervised one. So the prompt at inference is the prompt in training by construction.

Segments are encoded one by one, each with SentencePiece's own dummy prefix, because the records everyone
starts from are made that way (research/internlm/alpaca_data_preprocess.py); joining the text first gives
other ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sentencepiece

from research_internlm.errors import ToolkitError
from research_internlm.tokens import SpecialTokens

PROMPT_VERSION = "internlm-chat-1"  # goes into manifests; raise it when any string below changes

LETTERS = ("A", "B", "C", "D")

_USER = "<|User|>:"
_BOT = "<|Bot|>:"


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


def _token(role: str, supervised: bool = False) -> Segment:
    return Segment(role, is_token=True, supervised=supervised)


def render_chat(instruction: str, input_text: str, output: str | None = None) -> list[Segment]:
    """Renders one alpaca item as an InternLM chat turn.

    Args:
        instruction: The `instruction` field.
        input_text: The `input` field; an empty one adds no newline.
        output: The `output` field, or None for the inference prompt.

    Returns:
        Segments; with an output, those before the first supervised one are the inference prompt.
    """
    user = f"{instruction}\n{input_text}" if input_text else instruction
    prompt = [_token("bos"), Segment(_USER + user), _token("eoh"), _token("newline"), Segment(_BOT)]
    if output is None:
        return prompt
    return [*prompt, Segment(output, supervised=True), _token("eoa", True), _token("newline", True),
            _token("eos", True)]


def render_squad(passage: str, question: str) -> list[Segment]:
    """The contest's SQuAD prompt: plain text behind `<s>`, no chat tokens.

    Source: mindformers/tools/dataset_preprocess/llama/squad_data_process.py.
    """
    return [_token("bos"), Segment(
        "Read the passage and answer the question below.\n\n"
        f"### Instruction:\n{passage}\n\n### Input:\n{question}\n\n### Response:"
    )]


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
        "Please select the correct option and answer the question with 'The right option is'."
    )


def choice_input(question: str, options: Sequence[str]) -> str:
    """The `input` field: the question and its four options, in order."""
    return f"Question: {question} " + "".join(
        f"\n{letter}.{option}" for letter, option in zip(LETTERS, options, strict=True)
    )


def choice_output(letter: str, option: str = "") -> str:
    """The `output` field: the letter, completed by the option's text in the report's recipe."""
    return f"The right option is {letter}.{option}"


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
