"""The attention mask of packed rows: every sample sees itself and its own past, nothing else.

Each sample starts with `<s>` and has no other, so the number of `<s>` up to a position tells its sample.
A row with one sample gets the stock mask, which hides keys of the padding's id too. Rotary angles keep
counting through the row, which changes nothing: attention depends on their differences only (Su et al. 2021,
RoFormer).

The mask takes the place of MindFormers' `casual_mask`, so that the same few operators run on a CPU and under
Ascend's flash attention at any length; `actual_seq_len` needs 2048 tokens or more, and an `attention_mask`
column is not even causal without flash attention (docs/traps.md#attention-mask-column).
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, dtype, nn, ops

_MASKED = -10000.0  # added to a score; MindFormers' own value


class PackedCausalMask(nn.Cell):
    """Block-diagonal causal mask of token ids.

    Args:
        seq_length: Tokens per row, seq.
        bos_token_id: The id that every sample starts with.
        pad_token_id: The padding's id, another one.
        compute_dtype: Type of the attention scores.
        use_flash_attention: Give the kernel's form, uint8 with 1 where masked, instead of an addend.

    Inputs:
        tokens: (batch, seq) ids.

    Outputs:
        (batch, 1, seq, seq).
    """

    def __init__(self, seq_length: int, bos_token_id: int, pad_token_id: int, compute_dtype: dtype,
                 use_flash_attention: bool) -> None:
        super().__init__()
        self.bos_token_id, self.pad_token_id = bos_token_id, pad_token_id
        self.compute_dtype = compute_dtype
        self.use_flash_attention = use_flash_attention
        self.future = Tensor(np.triu(np.ones((1, seq_length, seq_length), np.bool_), 1))
        self.count = ops.CumSum()

    def construct(self, tokens: Tensor) -> Tensor:
        """Returns the mask."""
        starts = ops.cast(ops.equal(tokens, self.bos_token_id), dtype.float32)
        sample = self.count(starts, 1)
        another = ops.not_equal(ops.expand_dims(sample, 2), ops.expand_dims(sample, 1))
        padding = ops.expand_dims(ops.equal(tokens, self.pad_token_id), 1)
        masked = ops.expand_dims(ops.logical_or(ops.logical_or(another, padding), self.future), 1)
        if self.use_flash_attention:
            return ops.cast(masked, dtype.uint8)
        return ops.cast(masked, self.compute_dtype) * _MASKED
