"""A decoder layer of MindFormers' Llama in parts, from operators that every MindSpore device has.

The cells of a loaded layer (projections, biases, norms, rotary angles, feed-forward) are called one by one,
so that what flows between them can be cached (kv_cache.py) or looked at (quantisation/layer_network.py).

MindSpore's compiler wants the receiver of `construct` to be called `self`.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops

MASKED = -10000.0  # what MindFormers adds to the scores it masks
Triple = tuple[Tensor, Tensor, Tensor]


class PlainLayer(nn.Cell):
    """The steps of a decoder layer.

    Args:
        layer: MindFormers' LLamaDecodeLayer, its projections plain or LoRA-wrapped.
    """

    def __init__(self, layer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.layer = layer
        self.attention = layer.attention
        self.kv_heads, self.head_dim = self.attention.n_kv_head, self.attention.head_dim
        self.group = self.attention.n_head // self.kv_heads  # query heads that share a key head
        self.scale = self.head_dim ** -0.5
        self.compute_type, self.softmax_type = self.attention.dtype, self.attention.softmax_dtype
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weigh = ops.BatchMatMul()
        self.softmax = ops.Softmax()

    def heads(self, x: Tensor) -> Tensor:
        """(batch, length, heads * head_dim) -> (batch, heads, length, head_dim)."""
        batch, length, _ = x.shape
        return x.reshape((batch, length, -1, self.head_dim)).swapaxes(1, 2)

    def project(self, x: Tensor, freqs: Triple) -> Triple:
        """Rotated queries and keys, and values, of the attention norm's output x (batch, length, hidden)."""
        query = self.heads(ops.cast(self.attention.wq(x), self.compute_type))
        key = self.heads(ops.cast(self.attention.wk(x), self.compute_type))
        value = self.heads(ops.cast(self.attention.wv(x), self.compute_type))
        query, key = self.attention.apply_rotary_emb(query, key, freqs)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attention of (batch, heads, queries, head_dim), merged to (batch, queries, hidden).

        The query heads of one key head are rows of one product, so no key is repeated in memory.
        """
        batch, heads, length, _ = query.shape
        query = query.reshape((batch, self.kv_heads, self.group * length, self.head_dim))
        scores = self.scores(query * self.scale, key).reshape((batch, self.kv_heads, self.group, length, -1))
        shares = self.softmax(ops.cast(scores + mask, self.softmax_type))
        shares = ops.cast(shares, self.compute_type).reshape((batch, self.kv_heads, self.group * length, -1))
        context = self.weigh(shares, value).reshape((batch, heads, length, self.head_dim))
        return context.swapaxes(1, 2).reshape((batch, length, -1))

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        """Output projection, feed-forward and both residual sums."""
        hidden = x + ops.cast(self.attention.wo(context), x.dtype)
        return hidden + self.layer.feed_forward(self.layer.ffn_norm(hidden))


def causal_mask(length: int, compute_type: Any) -> Tensor:
    """What is added to scores (batch, kv_heads, group, length, length): no token sees a later one."""
    places = ops.arange(0, length)
    later = places.reshape((1, length)) > places.reshape((length, 1))
    return (ops.cast(later, compute_type) * MASKED).reshape((1, 1, 1, length, length))


def rotary_angles(cosines: Tensor, sines: Tensor, swap: Tensor, length: int) -> Triple:
    """The angles of the first `length` places, as RotaryEmbedding takes them."""
    return (cosines[:length].reshape((1, 1, length, -1)), sines[:length].reshape((1, 1, length, -1)), swap)
