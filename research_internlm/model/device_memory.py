"""A device's memory: what the recipe lets a run use, and how many sequences are answered together in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research_internlm.model.lora import count_parameters
from research_internlm.model.shape import intermediate_size, layer_linears
from research_internlm.shared.errors import ToolkitError

GIB = 2**30
MARGIN = 0.1  # of max_device_memory left free
_DEFAULT_LIMIT = "58GB"
_CPU_BATCH = 8  # on a CPU more rows at once take as long as one after another
_MOST = 256  # sequences together; beyond it a step of decoding costs as much as its rows
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def dtype_bytes(config: Mapping[str, Any], key: str, default: int) -> int:
    """Bytes of the type that a setting of a model_config names."""
    return _DTYPE_BYTES.get(config.get(key), default)


def memory_limit(recipe: Mapping[str, Any]) -> float:
    """Bytes a card may use: context.max_device_memory less the margin.

    Raises:
        ToolkitError: The setting is not of the form 58GB.
    """
    text = str((recipe.get("context") or {}).get("max_device_memory") or _DEFAULT_LIMIT)
    try:
        gigabytes = float(text.removesuffix("GB"))
    except ValueError:
        raise ToolkitError(f"context.max_device_memory is {text!r}, but has to be of the form 58GB") from None
    return gigabytes * GIB * (1 - MARGIN)  # MindSpore's GB are 2**30 bytes


def generation_batch(recipe: Mapping[str, Any], tokens: int) -> int:
    """Sequences that are answered together with a key-value cache where the recipe names no batch_size.

    An estimate, not measured on an NPU.

    Args:
        recipe: A resolved recipe of the model; what trains it is left out.
        tokens: Longest prompt and answer together.

    Returns:
        On a CPU 8; elsewhere the power of two that the memory holds, 1 to 256.

    Raises:
        ToolkitError: context.max_device_memory is not of its form.
    """
    if (recipe.get("context") or {}).get("device_target") == "CPU":
        return _CPU_BATCH
    config = recipe["model"]["model_config"]
    size, hidden = dtype_bytes(config, "compute_dtype", 2), config["hidden_size"]
    kv_width = next(linear.out_channels for linear in layer_linears(config) if linear.name == "wk")
    cache = 2 * config["num_layers"] * kv_width * size
    # The first pass reads whole prompts: one layer's input, q, k, v, output, norm, and the gated products.
    prompt = size * (4 * hidden + 2 * kv_width + 3 * intermediate_size(config))
    sequence = tokens * (cache + prompt) + config["vocab_size"] * 8  # float32 logits of one place, and a copy
    room = memory_limit(recipe) - count_parameters(config).base * dtype_bytes(config, "param_init_type", 2)
    return min(_MOST, 1 << max(0, int(room / sequence).bit_length() - 1)) if room > sequence else 1
