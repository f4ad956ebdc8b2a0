"""Log-probabilities of all tokens of a prompt, in one forward pass over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research_internlm.data.tokens import PAD_ID
from research_internlm.inference.rows import padded_length

_BLOCK = 128  # positions whose logits are in memory together, all of the vocabulary each


@dataclass(frozen=True)
class PromptScores:
    """What a model thinks of a prompt of n tokens.

    Attributes:
        logprobs: (n - 1,) float32, of the tokens after the first.
        top_ids: (n, k), the likeliest tokens to follow each token of the prompt, the likeliest first.
        top_logprobs: (n, k) float32, theirs.
    """

    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Float32 log-probabilities of float32 logits (..., vocab_size), computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).astype(np.float32)


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids (..., count) of the largest logits (..., vocab_size), in descending order.

    The first one is the token of greedy decoding: of equal ones the smaller id.
    """
    if count == 1:
        return logits.argmax(-1)[..., None]
    count = min(count, logits.shape[-1])
    ids = np.sort(np.argpartition(-logits, count - 1, axis=-1)[..., :count], axis=-1)
    order = np.argsort(-np.take_along_axis(logits, ids, -1), axis=-1, kind="stable")
    return np.take_along_axis(ids, order, -1)


class PromptScorer:
    """Scores prompts by MindFormers' network; only one block of logits is in memory at a time.

    Args:
        network: The network for one pass over whole prompts, loaded.
        seq_length: Longest prompt, in tokens.
        batch_size: Prompts of the longest kind computed together.
    """

    def __init__(self, network: Any, seq_length: int, batch_size: int) -> None:
        self._seq_length, self._budget = seq_length, batch_size * seq_length
        self._hidden, self._head = _cells(network)

    def score(self, prompts: Sequence[Sequence[int]], top: int) -> list[PromptScores]:
        """Scores prompts.

        Args:
            prompts: Token ids, at least one each and at most `seq_length`.
            top: How many of the likeliest tokens to tell at each place, at least 1.

        Returns:
            The scores of each prompt, in order.
        """
        scores: list[PromptScores | None] = [None] * len(prompts)
        by_length: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            by_length.setdefault(padded_length(len(prompt), self._seq_length), []).append(index)
        for length, indices in by_length.items():
            rows = max(1, self._budget // length)
            for start in range(0, len(indices), rows):
                batch = indices[start:start + rows]
                # Two shapes a length are compiled: one prompt, and the full batch.
                ids = np.full((1 if len(batch) == 1 else rows, length), PAD_ID, np.int32)
                for row, index in enumerate(batch):
                    ids[row, :len(prompts[index])] = prompts[index]
                hidden = self._hidden(_tensor(ids)).asnumpy()
                for row, index in enumerate(batch):
                    scores[index] = self._read(hidden[row, :len(prompts[index])], prompts[index], top)
        return scores

    def _read(self, hidden: np.ndarray, prompt: Sequence[int], top: int) -> PromptScores:
        following = np.array([*prompt[1:], 0])
        own, ids, values = [], [], []
        for start in range(0, len(prompt), _BLOCK):
            block = hidden[start:start + _BLOCK]
            padded = np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
            logits = self._head(_tensor(padded)).asnumpy()[:len(block)]
            logprobs, likely = log_softmax(logits), likeliest(logits, top)
            ids.append(likely)
            values.append(np.take_along_axis(logprobs, likely, -1))
            own.append(logprobs[np.arange(len(block)), following[start:start + _BLOCK]])
        return PromptScores(np.concatenate(own)[:-1], np.concatenate(ids), np.concatenate(values))


def _tensor(values: np.ndarray) -> Any:
    from mindspore import Tensor

    return Tensor(np.ascontiguousarray(values))


def _cells(network: Any) -> tuple[Any, Any]:
    """The network up to its head, float32 at the end, and the head."""
    from mindspore import dtype, nn, ops

    class Hidden(nn.Cell):
        """(batch, length) ids to (batch, length, hidden) float32."""

        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.model = network.model

        def construct(self, input_ids):  # noqa: ANN001 (compiled by MindSpore)
            return ops.cast(self.model(input_ids), dtype.float32)

    class Head(nn.Cell):
        """(positions, hidden) to (positions, vocab_size) float32 logits."""

        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.lm_head = network.lm_head
            self.compute_type = network.model.dtype

        def construct(self, hidden):  # noqa: ANN001 (compiled by MindSpore)
            return ops.cast(self.lm_head(ops.cast(hidden, self.compute_type)), dtype.float32)

    return Hidden().set_train(False), Head().set_train(False)
