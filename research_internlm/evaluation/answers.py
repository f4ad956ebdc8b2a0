"""The strict reader of a written multiple-choice answer.

The contest reads the letter from `The right option is {X}.{text}`. The readers its teams used search for
a capital letter and find "T" in "The right ...", "C" in "B.Both A and C", or fall back to "C" where they
find nothing. This one reads the sentence itself and returns None otherwise; its callers list these
answers and count them as wrong.
"""

from __future__ import annotations

import re

from research_internlm.data.choice import ANSWER_PHRASE, LETTERS

# After the letter comes the dot of the format, or the line ends there (a generation cut short). Not any
# non-letter: in "The right option is A good one" the A is an article.
_ANSWER = re.compile(rf"\s*{ANSWER_PHRASE} ([{''.join(LETTERS)}])(?:\.|\s*$)", re.MULTILINE)


def extract_letter(text: str) -> str | None:
    """Reads the letter of an answer that opens with the contest's sentence.

    - Leading white space is skipped; nothing else may stand before the sentence.
    - Whatever follows the dot is not read: "B.Both A and C" is B. Neither is a second sentence that
      names another letter, because models tuned on this format run on after their answer (their end
      marker is hard to learn), and the first statement is the one they were asked for.
    - A bare "B", "B." or "(B)" is None, although it needs no guess: the item asks for the sentence, and
      a base model that does not write it would not be matched by the contest either.

    Args:
        text: What the model generated, decoded.

    Returns:
        "A", "B", "C" or "D", or None where the answer is not in the format.
    """
    match = _ANSWER.match(text)
    return match.group(1) if match else None
