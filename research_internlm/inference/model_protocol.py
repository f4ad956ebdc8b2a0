"""What a task, a chat or a server asks of a model: token ids in, token ids or scores out.

`engine.Engine` is the real one; tests pass small scripted ones. No MindSpore.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from research_internlm.inference.sampling import Sampling


class Model(Protocol):
    """A model that knows no text: whoever asks encodes the prompts and decodes the answers."""

    def generate(self, prompts: Sequence[Sequence[int]], describe: str = "generate") -> list[list[int]]:
        """Greedy continuation of each prompt, without the stop token; `describe` labels the progress bar."""

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Continuation of one prompt, token by token, without the stop token."""

    def next_token_scores(self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]],
                          describe: str = "score") -> np.ndarray:
        """Float32 logits (prompts, k) of the k candidates asked about to follow each prompt."""

    def token_losses(self, prompts: Sequence[Sequence[int]], describe: str = "loss") -> list[np.ndarray]:
        """For each prompt the losses (n - 1,) of its tokens after the first, in nats, float32."""
