"""Faster forms of what dominates a training step on a CPU; cpu_patches.adapt puts them in, on a CPU only.

A profile of the tiny model says that MindSpore's CPU time goes into a few slow kernels, not into
launching many small ones: the row sums of the softmax's and the norm's gradients, the random numbers of
dropout, broadcasts over heads, Addcmul and IsFinite on small tensors (numbers: benchmarks/RESULTS.md).
Each replacement computes the same function and, but for the random stream of dropout, the same values up
to rounding. MindSpore's compiler wants the receiver of `construct` to be called `self`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mindspore import Parameter, Tensor, dtype, nn, ops
from mindspore.common.seed import _get_graph_seed
from mindspore.communication import GlobalComm
from mindspore.nn.wrap import cell_wrapper

Pair = tuple[Tensor, Tensor]

# Draws beyond the expected number of dropped elements, in standard deviations: a row of draws that ends
# too early would leave its tail undropped.
_SPARE_DEVIATIONS = 8


def install() -> None:
    """Replaces cells and functions of MindFormers and mindpet in this process; call it before building."""
    import mindformers.core.optim.adamw as adamw
    from mindformers.core.loss import loss
    from mindformers.models.llama.llama_layer import LlamaRMSNorm
    from mindformers.models.llama.llama_transformer import LLamaAttention
    from mindformers.wrapper import MFTrainOneStepCell
    from mindpet.delta import lora

    # Attributes of the classes, because MindSpore's compiler resolves names through the cell.
    LLamaAttention.attention_core = AttentionCore()
    LLamaAttention.stock_attention = LLamaAttention._attn
    LLamaAttention._attn = _attention
    LlamaRMSNorm.norm_core = NormCore()
    LlamaRMSNorm._self_norm = _norm
    loss._LogSoftmax.construct = _log_softmax
    MFTrainOneStepCell.join_flat = JoinFlat()
    adamw.addcmul = _addcmul
    cell_wrapper.DistributedGradReducer = JoinedGradReducer
    lora.get_dropout = SparseDropout


class AttentionCore(nn.Cell):
    """Softmax attention whose gradient sums over head_dim instead of over the row.

    The softmax's gradient needs, for each query, the sum over all keys of P * dP. That equals the sum over
    head_dim of O * dO (Dao et al. 2022, "FlashAttention", appendix B.2), 8 times less at head_dim 32 and
    256 keys; it is subtracted inside the matrix product, as one more column of dO against a column of ones.

    Inputs:
        query, key, value: (batch, heads, seq, head_dim); the query is already scaled.
        mask: (batch, 1, seq, seq), added to the scores.

    Outputs:
        The weighted values (batch, heads, seq, head_dim), and the probabilities (batch, heads, seq, seq),
        which only the gradient uses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.product = ops.BatchMatMul()
        self.product_right_transposed = ops.BatchMatMul(transpose_b=True)
        self.product_left_transposed = ops.BatchMatMul(transpose_a=True)
        self.row_sum = ops.MatMul()
        self.softmax = ops.Softmax()
        self.join = ops.Concat(-1)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weighted values and the probabilities."""
        scores = self.product_right_transposed(query, key)
        # Without heads of its own the mask takes a slow broadcast in every layer; all layers share this one.
        mask = ops.BroadcastTo(scores.shape)(mask)
        probabilities = self.softmax(scores + mask)
        return self.product(probabilities, value), probabilities

    def bprop(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, outputs: Pair, gradients: Pair
              ) -> tuple[Tensor, ...]:
        """Gradients of query, key and value; the mask is a constant."""
        weighted, probabilities = outputs
        gradient = gradients[0]
        batch, heads, length, width = value.shape
        ones = ops.ones((batch, heads, length, 1), value.dtype)
        row_sums = self.row_sum((gradient * weighted).reshape((-1, width)), ops.ones((width, 1), value.dtype))
        row_sums = row_sums.reshape((batch, heads, query.shape[2], 1))
        centred = self.product_right_transposed(self.join((gradient, -row_sums)), self.join((value, ones)))
        score_gradient = probabilities * centred
        return (self.product(score_gradient, key), self.product_left_transposed(score_gradient, query),
                self.product_left_transposed(probabilities, gradient), ops.zeros_like(mask))


def _attention(self, query, key, value, mask):  # noqa: ANN001 (compiled by MindSpore)
    """LLamaAttention._attn by AttentionCore: (batch, heads, seq, head_dim) -> (batch, seq, hidden)."""
    if query.dtype != dtype.float32:  # then the softmax has a type of its own
        return self.stock_attention(query, key, value, mask)
    weighted, _ = self.attention_core(self.mul(query, self.inv_norm_factor), key, value, mask)
    return self._merge_heads(weighted)


class NormCore(nn.Cell):
    """x / sqrt(mean(x^2) + eps) * weight with the row sums as products with a column.

    Inputs:
        x: (..., dim). weight: (dim,), frozen under LoRA but given its gradient. eps: a number.

    Outputs:
        The normalised x, and 1 / sqrt(mean(x^2) + eps) of each row (rows, 1) for the gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.product = ops.MatMul()
        self.product_left_transposed = ops.MatMul(transpose_a=True)
        self.rsqrt = ops.Rsqrt()
        self.square = ops.Square()

    def construct(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Returns the normalised rows and their factors."""
        width = x.shape[-1]
        rows = x.reshape((-1, width))
        mean = self.product(self.square(rows), ops.fill(rows.dtype, (width, 1), 1 / width))
        factor = self.rsqrt(mean + eps)
        return (rows * factor * weight).reshape(x.shape), factor

    def bprop(self, x: Tensor, weight: Tensor, eps: float, outputs: Pair, gradients: Pair
              ) -> tuple[Tensor, Tensor, float]:
        """Gradients of x and weight."""
        width = x.shape[-1]
        rows, factor = x.reshape((-1, width)), outputs[1]
        gradient = gradients[0].reshape((-1, width))
        scaled = gradient * weight
        mean = self.product(scaled * rows, ops.fill(rows.dtype, (width, 1), 1 / width))
        x_gradient = (scaled - rows * (mean * factor * factor)) * factor
        weight_gradient = self.product_left_transposed(gradient * rows, factor).reshape((width,))
        return x_gradient.reshape(x.shape), weight_gradient, 0.0


def _norm(self, x):  # noqa: ANN001 (compiled by MindSpore)
    """LlamaRMSNorm._self_norm by NormCore, in the norm's own type."""
    normalised, _ = self.norm_core(self.cast(x, self.compute_type), self.cast(self.weight, self.compute_type),
                                   self.eps)
    return self.cast(normalised, x.dtype)


def _log_softmax(self, logits, label):  # noqa: ANN001 (compiled by MindSpore)
    """_LogSoftmax.construct by one kernel, in place of five; the gradient is the stock one."""
    logits = ops.cast(logits, dtype.float32)
    return ops.LogSoftmax(-1)(logits), self.onehot(label, logits.shape[-1], self.on_value, self.off_value)


class JoinFlat(nn.Cell):
    """Tensors of one type and any shapes -> one tensor (elements,)."""

    def __init__(self) -> None:
        super().__init__()
        self.join = ops.Concat()

    def construct(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Returns all elements in a row."""
        flat = ()
        for tensor in tensors:
            flat += (tensor.reshape((-1,)),)
        return self.join(flat)


class JoinedGradReducer(nn.DistributedGradReducer):
    """The sums over workers by one exchange for all gradients; an NPU's compiler joins them by itself.

    Args:
        parameters: Parameters of the gradients.
        mean, degree: DistributedGradReducer's own.
        group: Workers that exchange.
    """

    def __init__(self, parameters: Sequence[Parameter], mean: bool | None = None, degree: int | None = None,
                 group: str = GlobalComm.WORLD_COMM_GROUP) -> None:
        super().__init__(parameters, mean, degree, group=group)
        self.exchange = ops.AllReduce(group=group)
        self.join = JoinFlat()
        self.cast = ops.Cast()
        self.shapes = tuple(parameter.shape for parameter in parameters)
        self.sizes = tuple(parameter.size for parameter in parameters)

    def construct(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns the gradients' sums, or means where the context asks for them, in their own types."""
        wide = ()
        for gradient in grads:
            wide += (self.cast(gradient, dtype.float32),)  # as the stock exchange does
        summed = self.exchange(self.join(wide))
        if self.mean:
            summed = summed * self.degree
        parts, start = (), 0
        for place in range(len(grads)):
            end = start + self.sizes[place]
            parts += (self.cast(summed[start:end].reshape(self.shapes[place]), grads[place].dtype),)
            start = end
        return parts


def _addcmul(base, left, right, factor):  # noqa: ANN001 (compiled by MindSpore)
    return base + left * right * factor


class SparseDropout(nn.Cell):
    """Dropout that draws the distances between dropped elements instead of a number for each element.

    In independent trials of probability p the distance to the next success is geometric,
    1 + floor(log(u) / log(1 - p)), so p * n draws and some spare ones decide n elements exactly as n
    draws would, at p = 0.05 with 18 times fewer random numbers.

    Args:
        p: Probability that an element is zeroed; the others are scaled by 1 / (1 - p).

    Inputs:
        x: Tensor of any shape.

    Outputs:
        A tensor like x; x itself outside training or for p = 0.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.inverse_log = 1 / math.log1p(-p) if p else 0.0
        # Recomputed, the mask of the backward pass would be another one.
        self.scatter = ops.TensorScatterUpdate().recompute(False)
        self.uniform = ops.UniformReal(*_get_graph_seed(0, "dropout"))
        self.log = ops.Log()
        self.floor = ops.Floor()
        self.cumulative = ops.CumSum()
        self.cast = ops.Cast()
        self.minimum = ops.Minimum()

    def construct(self, x: Tensor) -> Tensor:
        """Returns x with dropped elements in training."""
        if not self.training or self.p == 0:
            return x
        count = x.size
        draws = int(count * self.p + _SPARE_DEVIATIONS * math.sqrt(count * self.p) + _SPARE_DEVIATIONS)
        gaps = self.floor(self.log(self.uniform((draws,))) * self.inverse_log) + 1.0
        gaps = self.cast(self.minimum(gaps, float(count)), dtype.int32)  # log(0) is a distance too
        # Positions beyond the end fall on one element that is cut off.
        positions = self.minimum(self.cumulative(gaps, 0) - 1, count)
        kept = ops.fill(x.dtype, (count + 1,), 1 / (1 - self.p))
        kept = self.scatter(kept, positions.reshape((-1, 1)), ops.zeros((draws,), x.dtype))
        return x * ops.stop_gradient(kept[:count].reshape(x.shape))
