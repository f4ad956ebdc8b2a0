"""The token sequences that a model is calibrated on, from the user's own file. No MindSpore.

Data sets of the internet are not asked for: their names change (LMDeploy's `c4` and `ptb` no longer load),
and what a tuned model is asked later is better represented by its own training items.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from research_internlm.inference.samples import encode_sample, read_contents, windows
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.errors import ToolkitError

Facts = dict[str, int]


def read_sequences(path: str | Path, codec: TextCodec, count: int, length: int) -> tuple[np.ndarray, Facts]:
    """Sequences of equal length, evenly spread over the file, each beginning with `<s>`.

    Items are joined whole and in order until a sequence is full, the last one cut; a text is cut into pieces.

    Args:
        path: Items (.json, .jsonl) or a text.
        codec: The tokenizer of the model.
        count: Most sequences.
        length: Tokens of each; fewer where the file has fewer.

    Returns:
        int32 (sequences, length), and `tokens_in_file`, `tokens_used` and `sequences`.

    Raises:
        ToolkitError: The file is missing or not valid, or has no tokens.
    """
    found: list[list[int]] = []
    total = 0
    for content in read_contents(path, "--calibration"):
        sample = encode_sample(content, codec)
        total += len(sample.ids)
        for piece in windows(sample.ids, length) if sample.supervised is None else (sample.ids,):
            if found and len(found[-1]) < length and sample.supervised is not None:
                found[-1] += piece[:length - len(found[-1])]
            else:
                found.append(list(piece[:length]))
    whole = [sequence for sequence in found if len(sequence) == length] or [max(found, key=len)]
    if len(whole[0]) < 2:
        raise ToolkitError(f"--calibration {path} holds no text to calibrate on")
    places = np.unique(np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int))
    chosen = np.array([whole[place] for place in places], np.int32)
    return chosen, {"tokens_in_file": total, "tokens_used": chosen.size, "sequences": len(chosen)}
