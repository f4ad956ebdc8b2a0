"""Cuts texts that are too long for a row while items are encoded: where token counts are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece

from preprocess.mindrecord.encoding import Block
from research_internlm.data.chat_template import encode
from research_internlm.data.detection import (
    FORMS_OF_TEXT,
    fit_text,
    is_detection,
    render_detection,
    verdict_position,
)
from research_internlm.data.rows import fits
from research_internlm.data.tokens import SpecialTokens


def cut_long_texts(items: Sequence[Mapping[str, Any]], block: Block, length: int, how: str,
                   processor: sentencepiece.SentencePieceProcessor, special: SpecialTokens, end: str
                   ) -> Block:
    """Cuts the texts among some items that do not fit a row.

    Args:
        items: Items of any kind; only texts to be judged are cut.
        block: Their samples.
        length: Row length.
        how: One of detection.CUTS.
        processor: The loaded vocabulary.
        special: Its special ids.
        end: How chat answers end.

    Returns:
        The samples, with `cut`.

    Raises:
        ToolkitError: The vocabulary does not decide the verdict at one token, or no text fits.
    """
    texts = {index: item for index, item in enumerate(items) if is_detection(item)}
    for language in sorted({item["language"] for item in texts.values()}):
        verdict_position(language, processor)
    long = [index for index in texts if not fits(int(block.lengths[index]), length)]
    if not long:
        return block
    samples = list(block.samples())
    for index in long:
        fitted = fit_text(items[index], length, how, processor, special, end)
        ids, supervised = encode(render_detection(fitted, special.family, end), processor, special)
        samples[index] = np.array(ids, np.int32), np.array(supervised)
    ids, supervised = map(np.concatenate, zip(*samples, strict=True))
    return Block(np.array([len(own) for own, _ in samples]), ids, supervised, block.shortened,
                 Counter(FORMS_OF_TEXT[items[index]["label"]] for index in long))
