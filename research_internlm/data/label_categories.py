"""The category of each supervised token: template words, letter, option text, an end marker.

A mean loss hides which tokens are not learnt; by category it shows (docs/traps.md#end-marker-not-learnt).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sentencepiece

from research_internlm.data.choice import ANSWER_PHRASE, parse_choice_output
from research_internlm.data.families import FAMILIES
from research_internlm.data.tokens import SpecialTokens

TEMPLATE, LETTER, STOP, OPTION, TEXT = "template words", "letter", "full stop", "option text", "other text"
# Roles of the end markers as a table names them.
_END_NAMES = {"end_of_assistant": "<eoa>", "newline": "newline", "eos": "</s>"}
END_CATEGORIES = tuple(_END_NAMES.values())
CATEGORIES = (TEMPLATE, LETTER, STOP, OPTION, TEXT, *END_CATEGORIES)


def label_categories(ids: Sequence[int], processor: sentencepiece.SentencePieceProcessor,
                     special: SpecialTokens) -> list[str]:
    """Names the category of each supervised token of one sample.

    Args:
        ids: The sample's supervised token ids in order, end markers included.
        processor: The vocabulary they were made with.
        special: Its special ids.

    Returns:
        One of CATEGORIES for each id. An answer that is not an exam item's ("The right option is X.") is
        `other text` up to its end markers.
    """
    ends = max((roles for roles in FAMILIES[special.family].end_markers.values()
                if list(ids[-len(roles):]) == [special[role] for role in roles]), key=len, default=())
    answer = list(ids[:len(ids) - len(ends)])
    return _answer_categories(answer, processor) + [_END_NAMES[role] for role in ends]


def _answer_categories(ids: list[int], processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """Categories of the ids between prompt and end markers, by the characters each piece stands for."""
    if parse_choice_output(processor.decode(ids)) is None:
        return [TEXT] * len(ids)
    letter = len(ANSWER_PHRASE) + 1  # index of its character
    ends = [len(processor.decode(ids[:count])) for count in range(1, len(ids) + 1)]
    categories = []
    for start, end in itertools.pairwise([0, *ends]):
        if end <= letter:
            categories.append(TEMPLATE)
        elif start <= letter:
            categories.append(LETTER)
        else:
            # A piece that joins the full stop to the option's first characters is option text.
            categories.append(STOP if end <= letter + len("A.") else OPTION)
    return categories


def end_ids(special: SpecialTokens) -> dict[str, int]:
    """First token of each way an answer may end -> its id; the alternatives to choose from."""
    return {name: special[roles[0]] for name, roles in FAMILIES[special.family].end_markers.items()}
