"""Decoding with a static key-value cache, from operators every MindSpore device has.

MindFormers' own cache (use_past) is paged and needs operators that exist on Ascend only (ReshapeAndCache,
PagedAttention, ApplyRotaryPosEmb); without it, its generate computes the whole sequence again for each
token. Here the cells of a loaded MindFormers Llama (projections, biases, norms, rotary angles, feed-forward,
head) run in two graphs instead: one takes the prompts and fills the cache, one takes a token per row.
cpu_patches.uses_static_cache says where this is in use.

MindSpore's compiler wants the receiver of `construct` to be called `self`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, dtype, nn, ops

from research_internlm.data.tokens import PAD_ID
from research_internlm.inference.plain_layer import MASKED, PlainLayer, Triple, causal_mask, rotary_angles


class _CachedLayer(PlainLayer):
    """A decoder layer with its cache.

    Args:
        layer: MindFormers' LLamaDecodeLayer, its projections plain or LoRA-wrapped.
        keys, values: Cache, (batch, kv_heads, seq_length, head_dim).
    """

    def __init__(self, layer: nn.Cell, keys: Parameter, values: Parameter) -> None:
        super().__init__(layer)
        self.keys, self.values = keys, values
        self.write = ops.ScatterNdUpdate()


class _PromptLayer(_CachedLayer):
    """A layer over whole prompts (prompts, length, hidden); their keys and values go into the cache."""

    def construct(self, x: Tensor, freqs: Triple, mask: Tensor, rows: Tensor) -> Tensor:
        """Returns the layer's output; mask is (1, 1, 1, length, length), rows (prompts, 1) of the cache."""
        query, key, value = self.project(self.layer.attention_norm(x), freqs)
        batch, heads, length, width = key.shape
        rest = ops.zeros((batch, heads, self.keys.shape[2] - length, width), key.dtype)
        self.write(self.keys, rows, ops.concat((key, rest), 2))
        self.write(self.values, rows, ops.concat((value, rest), 2))
        return self.finish(x, self.attend(query, key, value, mask))


class _TokenLayer(_CachedLayer):
    """A layer over one token a row (batch, 1, hidden) that reads its past from the cache."""

    def construct(self, x: Tensor, freqs: Triple, mask: Tensor, places: Tensor) -> Tensor:
        """Returns the layer's output; mask is (batch, 1, 1, 1, seq_length), places (batch, kv_heads, 3)."""
        query, key, value = self.project(self.layer.attention_norm(x), freqs)
        # Written in place, and read through the result so that the order is fixed.
        keys = self.write(self.keys, places, key.squeeze(2))
        values = self.write(self.values, places, value.squeeze(2))
        return self.finish(x, self.attend(query, keys, values, mask))


class _Decoder(nn.Cell):
    """Embedding, decoder layers, norm and head at one position per row."""

    def __init__(self, network: nn.Cell, layers: Sequence[nn.Cell]) -> None:
        super().__init__(auto_prefix=False)
        self.model, self.lm_head = network.model, network.lm_head
        self.layers = nn.CellList(layers, auto_prefix=False)
        self.compute_type = self.model.dtype
        frequencies = self.model.freqs_mgr
        self.cosines, self.sines = frequencies.freqs_cos, frequencies.freqs_sin
        self.swap = frequencies.swap_mask

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, length) -> (batch, length, hidden)."""
        return ops.cast(self.model.tok_embeddings(ids), self.compute_type)

    def score(self, hidden: Tensor) -> Tensor:
        """(batch, hidden) -> float32 logits (batch, vocab_size)."""
        return ops.cast(self.lm_head(self.model.norm_out(hidden)), dtype.float32)


class _Prompts(_Decoder):
    """Prompts (prompts, length) and the position of each one's last token -> logits (prompts, vocab_size)."""

    def construct(self, ids: Tensor, last: Tensor, cache_rows: Tensor) -> Tensor:
        """Fills rows (prompts, 1) of the cache and returns the logits of the tokens that follow."""
        batch, length = ids.shape
        # Padding is on the right, later than every token: causality hides it, whatever its id.
        mask = causal_mask(length, self.compute_type)
        freqs = rotary_angles(self.cosines, self.sines, self.swap, length)
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, freqs, mask, cache_rows)
        rows = ops.arange(0, batch).astype(dtype.int32)
        return self.score(ops.gather_nd(x, ops.stack((rows, last), 1)))


class _Tokens(_Decoder):
    """One token per row (batch, 1) at its own position (batch,) -> logits (batch, vocab_size)."""

    def construct(self, ids: Tensor, mask: Tensor, positions: Tensor, places: Tensor) -> Tensor:
        """Extends the cache by a token and returns the logits of the next."""
        batch = ids.shape[0]
        freqs = (ops.gather(self.cosines, positions, 0).reshape((batch, 1, 1, -1)),
                 ops.gather(self.sines, positions, 0).reshape((batch, 1, 1, -1)), self.swap)
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, freqs, mask, places)
        return self.score(x.squeeze(1))


class StaticCacheDecoder:
    """Decoding of batches by a loaded network, a token of work for each token written.

    The tokens are those of a causal model: padding is told from tokens by its place, after a row's last
    one, so that id 0 is a token like any other (MindFormers hides every id 0 when it pads with 0). As in
    the network's own `generate`, stop ids have no chance before `min_new_tokens`, and a tie goes to the
    smaller id.

    Args:
        network: MindFormers' LlamaForCausalLM or a subclass, loaded, use_past False, without joined
            projections (`qkv_concat`) and without a residual type of its own.
        batch_size: Rows of every batch.
        seq_length: Longest prompt and answer together, in tokens. The cache takes batch_size * seq_length *
            2 * layers * kv_heads * head_dim elements of the compute type.
    """

    def __init__(self, network: Any, batch_size: int, seq_length: int) -> None:
        layers = network.model.layers
        attention = layers[0].attention
        shape = (batch_size, attention.n_kv_head, seq_length, attention.head_dim)
        caches = [[Parameter(Tensor(np.zeros(shape), attention.dtype), name=f"static_cache.{kind}.{number}",
                             requires_grad=False) for kind in ("keys", "values")]
                  for number in range(len(layers))]
        self.seq_length = seq_length
        self._prompts = self._cell(_Prompts, _PromptLayer, network, caches)
        self._tokens = self._cell(_Tokens, _TokenLayer, network, caches)
        # Where ScatterNdUpdate writes: row, head and, filled in at each step, position.
        self._places = np.stack(np.broadcast_arrays(*np.ogrid[:batch_size, :attention.n_kv_head], 0), -1)
        self._mask_type = attention.dtype
        self._owner = None  # the decoding that filled the cache last

    @staticmethod
    def _cell(kind: type, layer_kind: type, network: Any, caches: list[list[Parameter]]) -> nn.Cell:
        layers = [layer_kind(layer, *cache)
                  for layer, cache in zip(network.model.layers, caches, strict=True)]
        return kind(network, layers).set_train(False)

    def logits(self, ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Reads prompts into the cache.

        Args:
            ids: Prompts (prompts, length), padded on the right.
            lengths: Tokens of each prompt.
            rows: The row of the cache that each one goes into; None for all rows in order.

        Returns:
            Logits (prompts, vocab_size) of the token that follows each prompt.
        """
        rows = np.arange(len(ids)) if rows is None else rows
        return self._prompts(self._int(ids), self._int(lengths - 1), self._int(rows[:, None])).asnumpy()

    def next_logits(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Reads one more token of each row, at `positions` (batch_size,) of ids (batch_size, seq_length).

        Args:
            ids: All tokens so far; anything where there is none yet.
            positions: Position of each row's newest token.

        Returns:
            Logits (batch_size, vocab_size) of the token that follows.
        """
        places = self._places.copy()
        places[..., 2] = positions[:, None]
        newest = np.take_along_axis(ids, positions[:, None], 1)
        hidden = (np.arange(self.seq_length) > positions[:, None])[:, None, None, None]
        return self._tokens(self._int(newest), Tensor(hidden * np.float32(MASKED), self._mask_type),
                            self._int(positions), self._int(places)).asnumpy()

    def generate(self, prompts: Sequence[Sequence[int]], length: int, max_new_tokens: int,
                 stop_ids: Sequence[int], min_new_tokens: int = 0) -> list[list[int]]:
        """Greedy continuation of each prompt until all rows have stopped.

        Args:
            prompts: Token ids, batch_size of them.
            length: Prompts are padded to it; each length is compiled once.
            max_new_tokens: Most tokens of an answer; at least 1, and with `prompts` within seq_length.
            stop_ids: Tokens that end an answer.
            min_new_tokens: Tokens before which an answer cannot end.

        Returns:
            The new tokens of each prompt, with the stop token.
        """
        answers: list[list[int]] = [[] for _ in prompts]
        active = np.ones(len(prompts), bool)
        steps = self.steps(prompts, length)
        logits = next(steps)
        for step in range(max_new_tokens):
            if step < min_new_tokens:
                logits[:, list(stop_ids)] = -np.inf
            chosen = logits.argmax(-1)
            for row in np.flatnonzero(active):
                answers[row].append(int(chosen[row]))
            active &= ~np.isin(chosen, stop_ids)
            if not active.any() or step == max_new_tokens - 1:
                break
            # A row that has stopped still computes, unread: the graph's batch is fixed.
            logits = steps.send(chosen)
        return answers

    def steps(self, prompts: Sequence[Sequence[int]], length: int
              ) -> Generator[np.ndarray, np.ndarray, None]:
        """The steps of one decoding, whoever chooses the tokens.

        Args:
            prompts: Token ids, batch_size of them.
            length: Prompts are padded to it; each length is compiled once.

        Yields:
            Logits (batch_size, vocab_size) of the token that follows; send() takes the tokens chosen
            (batch_size,) and gives the next ones.

        Raises:
            RuntimeError: Another decoding was started since, and the cache is now that one's.
        """
        self._owner = owner = object()
        rows = np.arange(len(prompts))
        positions = np.array([len(prompt) for prompt in prompts], np.int32)
        ids = np.full((len(prompts), self.seq_length), PAD_ID, np.int32)
        for row, prompt in enumerate(prompts):
            ids[row, :len(prompt)] = prompt
        logits = self.logits(ids[:, :length], positions)
        while True:
            chosen = yield logits
            if self._owner is not owner:
                raise RuntimeError("the key-value cache holds another sequence by now: end one decoding "
                                   "before the next is started")
            ids[rows, positions] = chosen
            logits = self.next_logits(ids, positions)
            positions += 1

    @staticmethod
    def _int(values: np.ndarray) -> Tensor:
        return Tensor(np.ascontiguousarray(values, np.int32))
