"""Estimates before a run is paid for: device memory and disk. None of it was measured on an NPU.

Activations are counted tensor by tensor, as the backward pass of a LoRA step needs them: products with frozen
weights do not need their input, products with adapters do. Held against PyTorch + PEFT on one H100 it is
within 3 % of eleven peaks (benchmarks/bench_plan.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from research_internlm.model import lora
from research_internlm.model.device_memory import GIB, dtype_bytes
from research_internlm.model.lora import ParameterCount
from research_internlm.model.shape import intermediate_size, layer_linears
from research_internlm.planning.flops import Shape, shape_of
from research_internlm.planning.points import Point

# Bytes of one logit that head and loss hold at once. PyTorch's: bfloat16, float32, log-softmax and gradient
# (2 + 4 + 4 + 4; 14 to 15 measured on the H100). Ascend's: the five float32 tensors of MindFormers' cross
# entropy, read in its source, not measured. A CPU's: measured with benchmarks/head.py.
PYTORCH = "PyTorch"
LOGIT_BYTES = {PYTORCH: 14, "Ascend": 20, "CPU": 66}
_ADAM = 8  # two float32 moments


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes one card needs, by what they are for."""

    weights: int
    trainable: int
    logits: int
    activations: int

    @property
    def total(self) -> int:
        """Sum in bytes."""
        return self.weights + self.trainable + self.logits + self.activations

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name) / GIB:.1f}"
                          for name in ("weights", "trainable", "logits", "activations"))
        return f"{self.total / GIB:.1f} GiB ({parts})"


@dataclass(frozen=True)
class MemoryFit:
    """What measured peaks add to the estimate.

    Attributes:
        fixed: Bytes that do not depend on the shape: the framework, its compiled graph.
        scale: Factor on logits and activations.
    """

    fixed: float = 0.0
    scale: float = 1.0

    def total(self, memory: DeviceMemory) -> float:
        """Bytes one card needs."""
        return memory.weights + memory.trainable + self.fixed + self.scale * (
            memory.logits + memory.activations)


def _adapter_bytes(model_config: Mapping[str, Any]) -> int:
    """Bytes of one trainable parameter; LoRA inherits the layer's type unless pet_config names one."""
    return dtype_bytes(model_config.get("pet_config") or {}, "param_init_type",
                        dtype_bytes(model_config, "param_init_type", 2))


def device_memory(recipe: Mapping[str, Any], count: ParameterCount, shape: Shape | None = None,
                  framework: str | None = None) -> DeviceMemory:
    """Estimates the memory of one card in data-parallel training.

    Args:
        recipe: A resolved recipe.
        count: Its parameter counts.
        shape: What a step computes on; None for the recipe's own.
        framework: A key of LOGIT_BYTES; None for the recipe's device.
    """
    config = recipe["model"]["model_config"]
    if shape is None:
        shape = shape_of(recipe)
        parts = (recipe.get("runner_wrapper") or {}).get("micro_batches") or 1  # one at a time
        shape = replace(shape, rows=-(-shape.rows // parts))
    layer, layer_input = _layer_bytes(config, shape)
    # Recomputing keeps each layer's input; one layer at a time is computed again.
    activations = config["num_layers"] * layer_input + layer if shape.recompute else (
        config["num_layers"] * layer)
    device = framework or (recipe.get("context") or {}).get("device_target")
    scaled = "Dynamic" in str((recipe.get("runner_wrapper") or {}).get("scale_sense"))
    own = _adapter_bytes(config)
    return DeviceMemory(
        weights=count.base * dtype_bytes(config, "param_init_type", 2),
        # Parameter and gradient in their own type, with loss scaling the scaled gradient too, and Adam.
        trainable=count.trainable * ((3 if scaled else 2) * own + _ADAM),
        logits=shape.rows * shape.head_places * config["vocab_size"] * LOGIT_BYTES.get(device, 20),
        activations=round(activations + _mask_bytes(config, shape)),
    )


def _layer_bytes(config: Mapping[str, Any], shape: Shape) -> tuple[float, float]:
    """Bytes one decoder layer keeps for its backward pass, and those of its input."""
    size, hidden = dtype_bytes(config, "compute_dtype", 2), config["hidden_size"]
    feed_forward = intermediate_size(config)
    kv_width = next(linear.out_channels for linear in layer_linears(config) if linear.name == "wk")
    norms = 2 * hidden * dtype_bytes(config, "layernorm_compute_type", 4)
    attention = size * (2 * hidden + 2 * kv_width)  # q, k, v after the rotation, and the output
    gated = 3 * size * feed_forward  # gate, its silu, and what that is multiplied with
    token = norms + attention + gated + _adapter_inputs(config, size)
    if not config.get("use_flash_attention"):
        # Probabilities in the type of the softmax, and in the compute type where that is another.
        softmax = dtype_bytes(config, "softmax_compute_type", 4)
        token += config["num_heads"] * shape.seq_length * (softmax + (size if size != softmax else 0))
    return shape.tokens * token, shape.tokens * size * hidden


def _adapter_inputs(config: Mapping[str, Any], size: int) -> float:
    """Bytes a position: what the gradients of a layer's trained weights need of the forward pass."""
    pet_config = config.get("pet_config")
    if not pet_config:  # inputs of all seven products; that of wo is the attention's output
        return size * (2 * config["hidden_size"] + intermediate_size(config))
    rank = lora.setting(pet_config, "lora_rank")
    # Dropout gives each cell an input of its own, and keeps which elements it dropped.
    dropped = 1 if lora.setting(pet_config, "lora_dropout") > 0 else 0
    return sum((size + dropped) * linear.in_channels + size * rank
               for linear in lora.matched_linears(config, pet_config))


def _mask_bytes(config: Mapping[str, Any], shape: Shape) -> float:
    """The causal mask, of each row where rows are packed (model/packed_mask.py)."""
    size = 1 if config.get("use_flash_attention") else dtype_bytes(config, "compute_dtype", 2)
    return (shape.rows if shape.packed else 1) * size * shape.seq_length ** 2


def fit_memory(recipe: Mapping[str, Any], count: ParameterCount, points: Sequence[Point]) -> MemoryFit:
    """Fits the estimate to measured peaks; without one it stays as it is.

    Args:
        recipe: The recipe that was measured.
        count: Its parameter counts.
        points: Measured shapes; those without a peak are passed over.
    """
    from scipy.optimize import nnls

    found = [(device_memory(recipe, count, point.shape), point.peak_bytes)
             for point in points if point.peak_bytes]
    rest = np.array([peak - memory.weights - memory.trainable for memory, peak in found], dtype=float)
    kept = np.array([memory.logits + memory.activations for memory, _ in found], dtype=float)
    if len(set(kept)) < 2:  # one peak: the difference to it is taken to be the framework's
        return MemoryFit(max(0.0, float(np.mean(rest - kept)))) if found else MemoryFit()
    peaks = np.array([peak for _, peak in found], dtype=float)
    fixed, scale = nnls(np.stack([np.ones(len(kept)), kept / kept.max()], axis=1) / peaks[:, None],
                        rest / peaks)[0]
    return MemoryFit(float(fixed), float(scale / kept.max()))


@dataclass(frozen=True)
class SaveBytes:
    """Bytes of a save's files.

    Attributes:
        full: Base, LoRA and Adam.
        state: LoRA and Adam.
        adapter: The LoRA file beside either; 0 where `save_trainable_params` is off.
    """

    full: int
    state: int
    adapter: int

    def of(self, full: int, states: int) -> int:
        """Bytes of so many full saves and states."""
        return full * (self.full + self.adapter) + states * (self.state + self.adapter)


def save_bytes(recipe: Mapping[str, Any], count: ParameterCount) -> SaveBytes:
    """What one rank writes at a save.

    Args:
        recipe: A resolved recipe with a CheckpointMonitor.
        count: Its parameter counts.
    """
    config = recipe["model"]["model_config"]
    adapter = count.trainable * _adapter_bytes(config) if count.matched else 0
    state = adapter + _ADAM * count.trainable
    monitor = next(item for item in recipe["callbacks"] if item["type"] == "CheckpointMonitor")
    return SaveBytes(full=count.base * dtype_bytes(config, "param_init_type", 2) + state, state=state,
                     adapter=adapter if monitor.get("save_trainable_params") else 0)
