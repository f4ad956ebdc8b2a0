"""Estimates before a run is paid for: device memory and disk. None of it was measured on an NPU.

Memory follows Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models",
section 4, for fp16 activations; with it 7B, batch 4, seq_length 1024 comes to about 39 GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research_internlm.model.lora import ParameterCount

GIB = 2**30
_LOGITS_COPIES = 5  # logits, log-softmax, one-hot and gradients kept by the cross entropy at once
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


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


def _dtype_bytes(config: Mapping[str, Any], key: str, default: int) -> int:
    return _DTYPE_BYTES.get(config.get(key), default)


def _adapter_bytes(model_config: Mapping[str, Any]) -> int:
    """Bytes of one trainable parameter; LoRA inherits the layer's type unless pet_config names one."""
    return _dtype_bytes(model_config.get("pet_config") or {}, "param_init_type",
                        _dtype_bytes(model_config, "param_init_type", 2))


def device_memory(recipe: Mapping[str, Any], count: ParameterCount) -> DeviceMemory:
    """Estimates the memory of one card in data-parallel training.

    Args:
        recipe: A resolved recipe.
        count: Its parameter counts.
    """
    config = recipe["model"]["model_config"]
    tokens = recipe["runner_config"]["batch_size"] * config["seq_length"]
    layer = 34 * tokens * config["hidden_size"]
    if not config.get("use_flash_attention"):
        layer += 5 * tokens * config["num_heads"] * config["seq_length"]
    if (recipe.get("recompute_config") or {}).get("recompute"):
        # Only each layer's fp16 input stays; one layer at a time is computed again.
        activations = 2 * tokens * config["hidden_size"] * config["num_layers"] + layer
    else:
        activations = layer * config["num_layers"]
    return DeviceMemory(
        weights=count.base * _dtype_bytes(config, "param_init_type", 2),
        # Parameter and gradient in their own type, Adam's two moments in float32.
        trainable=count.trainable * (2 * _adapter_bytes(config) + 8),
        logits=_LOGITS_COPIES * 4 * tokens * config["vocab_size"],
        activations=activations,
    )


def checkpoint_bytes(recipe: Mapping[str, Any], count: ParameterCount) -> tuple[int, int]:
    """Size of one save of one rank: the full checkpoint (base, LoRA, Adam), and the adapter file.

    Returns:
        Both in bytes; the second is 0 where `save_trainable_params` is off.
    """
    config = recipe["model"]["model_config"]
    adapter = count.trainable * _adapter_bytes(config) if count.matched else 0
    full = count.base * _dtype_bytes(config, "param_init_type", 2) + adapter + 8 * count.trainable
    monitor = next(item for item in recipe["callbacks"] if item["type"] == "CheckpointMonitor")
    return full, adapter if monitor.get("save_trainable_params") else 0
