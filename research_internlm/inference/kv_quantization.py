"""What a key-value cache of few bits does to the answers, simulated.

Keys (after rotation) and values are rounded to the levels of such a cache where they arise, so attention
reads what a real one would give back: in prompts too, as LMDeploy's kernels read their own cache there.
Memory is not saved. Everything an engine does, answers, scores and losses, goes through the same two cells.

Two ways of rounding, by name, because LMDeploy's number for them changed: `quant_policy = 4` was 8 bits in
its editions 0.1 to 0.3 and is 4 bits since 0.4.

- per token and head, asymmetric, nothing to calibrate (LMDeploy since 0.4);
- per layer, from the statistics of a calibration (LMDeploy 0.1 to 0.3): q = round((x - zp) / scale).

No MindSpore is imported before a network is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm.shared.errors import ToolkitError

KV_BITS = (8, 4)
_LEAST_STEP = 1e-8


@dataclass(frozen=True)
class LayerScales:
    """Of one layer, as LMDeploy 0.1 to 0.3 keeps them: x is q * scale + zp, q from -128 to 127.

    Attributes:
        k_scale, k_zp, v_scale, v_zp: Of keys and values.
    """

    k_scale: float
    k_zp: float
    v_scale: float
    v_zp: float


@dataclass(frozen=True)
class KvQuantization:
    """How the cache is rounded.

    Attributes:
        bits: Of a number.
        layers: Scales of each layer, with 8 bits; None rounds per token and head.
    """

    bits: int
    layers: Sequence[LayerScales] | None = None

    @property
    def title(self) -> str:
        """For tables: `KV8`, and how."""
        return f"KV{self.bits}" + (" per layer" if self.layers else "")

    def bytes_of_token(self, layers: int, kv_heads: int, head_dim: int) -> int:
        """Memory of one token in the cache; scale and zero of a token and head are two float16."""
        numbers = 2 * layers * kv_heads * head_dim * self.bits // 8
        return numbers + (0 if self.layers else 2 * layers * kv_heads * 4)


def require_simulated(quantization: KvQuantization, model_config: Mapping[str, Any], device: str) -> None:
    """Checks that the simulation knows the network.

    Raises:
        ToolkitError: Another device than a CPU, projections that are joined, or scales of another model.
    """
    if device != "CPU":
        raise ToolkitError(f"a key-value cache of {quantization.bits} bits is simulated on a CPU only, but "
                           f"device_target is {device}: add --device_target CPU")
    if model_config.get("qkv_concat"):
        raise ToolkitError("a quantised key-value cache needs plain layers: remove qkv_concat from the "
                           "model_config")
    if quantization.layers is not None and len(quantization.layers) != model_config["num_layers"]:
        raise ToolkitError(f"the statistics of the key-value cache are of {len(quantization.layers)} layers, "
                           f"the model has {model_config['num_layers']}: calibrate this model")


def install(network: Any, quantization: KvQuantization) -> None:
    """Puts the rounding into a loaded network, behind the rotation of keys and the projection of values."""
    from mindspore import nn, ops

    class PerTokenAndHead(nn.Cell):
        """(..., head_dim), one scale and zero for the last axis."""

        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.levels = float(2 ** quantization.bits - 1)

        def construct(self, x):  # noqa: ANN001 (compiled by MindSpore)
            low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
            scale = ops.maximum((high - low) / self.levels, _LEAST_STEP)
            return ops.round((x - low) / scale) * scale + low

    class PerLayer(nn.Cell):
        """Any shape, one scale and zero for the layer."""

        def __init__(self, scale: float, zero: float) -> None:
            super().__init__(auto_prefix=False)
            self.scale, self.zero = max(scale, _LEAST_STEP), zero
            self.half = float(2 ** (quantization.bits - 1))

        def construct(self, x):  # noqa: ANN001 (compiled by MindSpore)
            numbers = ops.clamp(ops.round((x - self.zero) / self.scale), -self.half, self.half - 1)
            return numbers * self.scale + self.zero

    class RoundedKeys(nn.Cell):
        """RotaryEmbedding whose keys are rounded."""

        def __init__(self, rotate: nn.Cell, rounding: nn.Cell) -> None:
            super().__init__(auto_prefix=False)
            self.rotate, self.rounding = rotate, rounding

        def construct(self, query, key, freqs):  # noqa: ANN001 (compiled by MindSpore)
            query, key = self.rotate(query, key, freqs)
            return query, self.rounding(key)

    class RoundedValues(nn.Cell):
        """wv whose outputs (..., kv_heads * head_dim) are rounded head by head."""

        def __init__(self, project: nn.Cell, rounding: nn.Cell, head_dim: int) -> None:
            super().__init__(auto_prefix=False)
            self.project, self.rounding, self.head_dim = project, rounding, head_dim

        def construct(self, x):  # noqa: ANN001 (compiled by MindSpore)
            value = self.project(x)
            return self.rounding(value.reshape((*value.shape[:-1], -1, self.head_dim))).reshape(value.shape)

    def roundings(number: int) -> tuple[nn.Cell, nn.Cell]:
        if quantization.layers is None:
            return PerTokenAndHead(), PerTokenAndHead()
        scales = quantization.layers[number]
        return PerLayer(scales.k_scale, scales.k_zp), PerLayer(scales.v_scale, scales.v_zp)

    for number, layer in enumerate(network.model.layers):
        attention, (keys, values) = layer.attention, roundings(number)
        names = {id(parameter): parameter.name for parameter in attention.get_parameters()}
        attention.apply_rotary_emb = RoundedKeys(attention.apply_rotary_emb, keys)
        attention.wv = RoundedValues(attention.wv, values, attention.head_dim)
        for parameter in attention.get_parameters():
            parameter.name = names[id(parameter)]  # MindSpore adds a prefix to what becomes an attribute
