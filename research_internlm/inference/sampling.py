"""How the next token is chosen from the logits of a model. No MindSpore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from research_internlm.shared.errors import ToolkitError


@dataclass(frozen=True)
class Sampling:
    """How an answer is written; the defaults are greedy decoding.

    Attributes:
        max_new_tokens: Most tokens of the answer, at least 1.
        temperature: Divides the logits; 0 takes the likeliest token (greedy).
        top_p: Nucleus sampling (Holtzman et al., 2020): only the likeliest tokens whose probabilities reach
            this sum, above 0 to 1; 1 keeps all.
        top_k: Only so many of the likeliest tokens; 0 keeps all.
        repetition_penalty: CTRL's (Keskar et al., 2019): positive logits of tokens seen before are divided
            by it, negative ones multiplied; 1 changes nothing.
        seed: Of the random numbers; None takes another one each time.

    Raises:
        ToolkitError: A value is out of its range; all such values are listed.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        # Written so that nan is out of every range.
        ranges = (("max_new_tokens", "at least 1", self.max_new_tokens >= 1),
                  ("temperature", "0 or more, and finite", 0 <= self.temperature < float("inf")),
                  ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
                  ("top_k", "0 (all) or more", self.top_k >= 0),
                  ("repetition_penalty", "above 0, and finite", 0 < self.repetition_penalty < float("inf")),
                  ("seed", "0 or more, or none", self.seed is None or self.seed >= 0))
        if wrong := [f"{name} is {getattr(self, name)}, but must be {range_}"
                     for name, range_, holds in ranges if not holds]:
            raise ToolkitError("; ".join(wrong))


def choose(logits: np.ndarray, seen: Sequence[int], sampling: Sampling, random: np.random.Generator) -> int:
    """Chooses the next token.

    Args:
        logits: Float32 logits (vocab_size,).
        seen: Tokens of the prompt and of the answer so far, which the repetition penalty is for.
        sampling: How to choose.
        random: Used where the temperature is above 0, for one number a token.

    Returns:
        A token id. Of equal logits the smaller id counts as the likelier one.
    """
    if sampling.temperature == 0:
        return int(penalize(logits, seen, sampling.repetition_penalty).argmax())
    return int(random.choice(len(logits), p=probabilities(logits, seen, sampling)))


def penalize(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Makes tokens that were seen less likely (more likely where the penalty is below 1)."""
    if penalty == 1 or not len(seen):
        return logits
    logits, ids = logits.copy(), np.unique(seen)
    logits[ids] = np.where(logits[ids] > 0, logits[ids] / penalty, logits[ids] * penalty)
    return logits


def probabilities(logits: np.ndarray, seen: Sequence[int], sampling: Sampling) -> np.ndarray:
    """What a token is drawn from, at a temperature above 0.

    In the usual order (Hugging Face's): repetition penalty, temperature, top_k, top_p of what top_k left.

    Returns:
        Float64 probabilities (vocab_size,), 0 for tokens that are left out.
    """
    scaled = penalize(logits, seen, sampling.repetition_penalty).astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")[:sampling.top_k or None]
    shares = _softmax(scaled[order])
    # A token stays where those before it have not reached top_p, so the first one always does.
    kept = np.concatenate(([0.0], np.cumsum(shares)[:-1])) < sampling.top_p
    result = np.zeros(len(logits))
    result[order[kept]] = shares[kept] / shares[kept].sum()
    return result


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()
