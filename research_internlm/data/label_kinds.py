"""What kind of label each supervised token is: template words, letter, option text, an end marker.

A mean loss hides which tokens are not learnt; by kind it shows (docs/traps.md#end-marker-not-learnt).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sentencepiece

from research_internlm.data.chat_template import END_MARKERS
from research_internlm.data.choice import ANSWER_PHRASE, parse_choice_output
from research_internlm.data.tokens import SpecialTokens

TEMPLATE, LETTER, STOP, OPTION, TEXT = "template words", "letter", "full stop", "option text", "other text"
# Roles of the end markers as a table names them.
_END_NAMES = {"eoa": "<eoa>", "newline": "newline", "eos": "</s>"}
END_KINDS = tuple(_END_NAMES.values())
KINDS = (TEMPLATE, LETTER, STOP, OPTION, TEXT, *END_KINDS)


def label_kinds(ids: Sequence[int], processor: sentencepiece.SentencePieceProcessor, special: SpecialTokens
                ) -> list[str]:
    """Names the kind of each supervised token of one sample.

    Args:
        ids: The sample's supervised token ids in order, end markers included.
        processor: The vocabulary they were made with.
        special: Its special ids.

    Returns:
        One of KINDS for each id. An answer that is none of an exam item ("The right option is X.") is
        `other text` up to its end markers.
    """
    ends = max((roles for roles in END_MARKERS[special.family].values()
                if list(ids[-len(roles):]) == [special[role] for role in roles]), key=len, default=())
    answer = list(ids[:len(ids) - len(ends)])
    return _answer_kinds(answer, processor) + [_END_NAMES[role] for role in ends]


def _answer_kinds(ids: list[int], processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """Kinds of the ids between prompt and end markers, by the characters each piece stands for."""
    if parse_choice_output(processor.decode(ids)) is None:
        return [TEXT] * len(ids)
    letter = len(ANSWER_PHRASE) + 1  # index of its character
    ends = [len(processor.decode(ids[:count])) for count in range(1, len(ids) + 1)]
    kinds = []
    for start, end in itertools.pairwise([0, *ends]):
        if end <= letter:
            kinds.append(TEMPLATE)
        elif start <= letter:
            kinds.append(LETTER)
        else:
            # A piece that joins the full stop to the option's first characters is option text.
            kinds.append(STOP if end <= letter + len("A.") else OPTION)
    return kinds


def end_ids(special: SpecialTokens) -> dict[str, int]:
    """First token of each way an answer may end -> its id; the alternatives to choose from."""
    return {name: special[roles[0]] for name, roles in END_MARKERS[special.family].items()}
