"""Greedy answers to a fixed list of prompts by a network that is in memory already, training or not.

The decoder's graphs (inference/kv_cache.py) are other cells over the network's own parameters. What is added
is a key-value cache, and two graphs that are compiled at the first round.
"""

from __future__ import annotations

from typing import Any

from research_internlm.inference.kv_cache import StaticCacheDecoder
from research_internlm.inference.rows import padded_length
from research_internlm.runs.answers_file import Answer
from research_internlm.training.answer_prompts import AnswerPrompts

_ROWS = 16  # answers at once; at 128 tokens InternLM2-1.8B's cache of them is 0.2 GB, InternLM-7B's 1.1 GB
_STEP = 8  # the decoder's length is rounded up to it


class Answerer:
    """Asks a network, again and again, while its weights change.

    Args:
        network: MindFormers' LlamaForCausalLM or a subclass; LoRA may wrap its projections.
        prompts: What is asked.
        max_new_tokens: Longest answer.
    """

    def __init__(self, network: Any, prompts: AnswerPrompts, max_new_tokens: int) -> None:
        self._prompts, self._max_new_tokens = prompts, max_new_tokens
        longest = max(map(len, prompts.ids))
        total = min(-(-(longest + max_new_tokens) // _STEP) * _STEP, network.config.seq_length)
        self._prompt_length = padded_length(longest, total)
        self._rows = min(_ROWS, len(prompts.ids))
        self._decoder = StaticCacheDecoder(network, self._rows, total)

    def answers(self) -> list[Answer]:
        """One to each prompt; the network is to be in predict mode."""
        stop_ids = self._prompts.codec.special.stop_ids
        found: list[list[int]] = []
        for start in range(0, len(self._prompts.ids), self._rows):
            batch = self._prompts.ids[start:start + self._rows]
            filled = [*batch, *[batch[-1]] * (self._rows - len(batch))]  # the graph's batch is fixed
            found += self._decoder.generate(filled, self._prompt_length, self._max_new_tokens,
                                            stop_ids)[:len(batch)]
        ended = [bool(ids) and ids[-1] in stop_ids for ids in found]
        return self._prompts.answers([ids[:-1] if end else ids
                                      for ids, end in zip(found, ended, strict=True)], ended)
