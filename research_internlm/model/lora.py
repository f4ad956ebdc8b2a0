"""The owner of LoRA facts: which cells are wrapped, the scaling, and exact parameter counts.

Counts come from a `model_config` mapping alone, so a recipe's low-parameter ratio is known before any
model is built (and before any NPU hour is paid). They follow MindFormers' Llama: layer names and shapes
from mindformers/models/llama, wrapping rule from mindformers/pet/tuners/lora_adapter.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from research_internlm.model.shape import Linear, layer_linears
from research_internlm.shared.arguments import is_number, is_whole
from research_internlm.shared.errors import ToolkitError

# Of mindformers.pet.pet_config.LoraConfig; it has none for target_modules.
MINDFORMERS_DEFAULTS = MappingProxyType({"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.01})


@dataclass(frozen=True)
class ParameterCount:
    """Exact parameter counts of a recipe.

    Attributes:
        base: Parameters of the model without adapters.
        trainable: What the optimizer updates: the LoRA parameters, or all of them without `pet_config`.
        matched: Number of linear cells wrapped by LoRA.
    """

    base: int
    trainable: int
    matched: int

    @property
    def ratio(self) -> float:
        """Trainable share of the base model's exact total."""
        return self.trainable / self.base


def scaling(pet_config: Mapping[str, Any]) -> float:
    """The factor on the low-rank product, alpha / rank (Hu et al. 2021, section 4.1)."""
    return setting(pet_config, "lora_alpha") / setting(pet_config, "lora_rank")


def setting(pet_config: Mapping[str, Any], key: str) -> Any:
    """`lora_rank`, `lora_alpha` or `lora_dropout` as MindFormers takes it: its default where none is stated.

    Raises:
        ToolkitError: MindFormers cannot train with the value.
    """
    value = pet_config.get(key, MINDFORMERS_DEFAULTS[key])
    if key == "lora_rank" and not is_whole(value, 1):
        raise ToolkitError(f"pet_config.{key} is {value!r}; it must be a whole number of at least 1")
    if not is_number(value, 0):
        raise ToolkitError(f"pet_config.{key} is {value!r}; it must be a number of at least 0")
    return value


def matched_linears(model_config: Mapping[str, Any], pet_config: Mapping[str, Any]) -> list[Linear]:
    """Cells of one layer that LoRA wraps: `re.match` on the local name, minus `exclude_layers`.

    Raises:
        ToolkitError: A part of the pattern matches no cell, so less would be trained than was asked for.
    """
    target = _target(pet_config)
    exclude = pet_config.get("exclude_layers") or []
    exclude = [exclude] if isinstance(exclude, str) else exclude
    linears = layer_linears(model_config)
    names = ", ".join(linear.name for linear in linears)
    dead = [part for part in alternatives(target)
            if not any(re.match(part, linear.name) for linear in linears)]
    if dead:
        raise ToolkitError(f"of pet_config.target_modules {target!r}, {', '.join(map(repr, dead))} "
                           f"match{'es' if len(dead) == 1 else ''} no cell; the cells of a layer are {names} "
                           "(the report uses '.*wq|.*wk|.*wv|.*wo')")
    matched = [linear for linear in linears
               if re.match(target, linear.name) and not any(re.match(e, linear.name) for e in exclude)]
    if not matched:
        raise ToolkitError(
            f"pet_config.exclude_layers leaves no cell of target_modules {target!r}, so nothing would be "
            f"trained; the cells of a layer are {names}")
    return matched


def alternatives(pattern: str) -> list[str]:
    """Splits a regular expression at each `|` that stands outside brackets, e.g. '.*wq|.*(wk|wv)' in two."""
    parts, depth, in_class, start, place = [], 0, False, 0, 0
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
            # A bracket that comes first in a class, after a ^ or not, is a character of it.
            place += len(re.match(r"\^?\]?", pattern[place + 1:])[0])
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and depth == 0:
            parts.append(pattern[start:place])
            start = place + 1
        place += 1
    return [*parts, pattern[start:]]


def _target(pet_config: Mapping[str, Any]) -> str:
    target = pet_config.get("target_modules")
    if isinstance(target, list) and target and all(isinstance(part, str) for part in target):
        raise ToolkitError(f"pet_config.target_modules is a list, but MindFormers takes one pattern: write "
                           f"'{'|'.join(target)}'")
    try:
        re.compile(target)
    except (TypeError, re.error):
        raise ToolkitError(f"pet_config.target_modules is {target!r}; it must be a regular expression of "
                           "cell names (the report uses '.*wq|.*wk|.*wv|.*wo')") from None
    return target


def count_parameters(model_config: Mapping[str, Any]) -> ParameterCount:
    """Counts a recipe's parameters without building the model.

    Args:
        model_config: The yaml's `model.model_config`, `pet_config` inside it or absent.

    Returns:
        Exact counts. InternLM-7B with rank 16 on wq, wk, wv, wo: 16,777,216 of 7,321,948,160.

    Raises:
        ToolkitError: `pet_config` matches no cell.
    """
    hidden, layers = model_config["hidden_size"], model_config["num_layers"]
    embedding = model_config["vocab_size"] * hidden
    heads = 1 if model_config.get("tie_word_embeddings") else 2
    norms = 2 * hidden
    per_layer = sum(linear.parameters for linear in layer_linears(model_config)) + norms
    base = heads * embedding + layers * per_layer + hidden
    pet_config = model_config.get("pet_config")
    if not pet_config:
        return ParameterCount(base, base, 0)
    matched = matched_linears(model_config, pet_config)
    rank = setting(pet_config, "lora_rank")
    trainable = layers * sum(rank * (cell.in_channels + cell.out_channels) for cell in matched)
    return ParameterCount(base, trainable, layers * len(matched))


def adapter_names(weight_name: str) -> tuple[str, str]:
    """Names of the two LoRA matrices of a weight (mindpet's LoRADense).

    Args:
        weight_name: `model.layers.0.attention.wq.weight`.

    Returns:
        Names of A, shape (rank, in), and of B, shape (out, rank).
    """
    cell = weight_name.removesuffix(".weight")
    return f"{cell}.mindpet_delta_lora_a", f"{cell}.mindpet_delta_lora_b"


def add_product(weight: np.ndarray, lora_a: np.ndarray, lora_b: np.ndarray, factor: float) -> np.ndarray:
    """W + factor * B A in float32, finite or not.

    Args:
        weight: Base weight, shape (out, in).
        lora_a: A, shape (rank, in).
        lora_b: B, shape (out, rank).
        factor: `scaling` of the run that trained the adapter.

    Raises:
        ToolkitError: Shapes do not belong together.
    """
    if lora_a.shape != (lora_b.shape[1], weight.shape[1]) or lora_b.shape[0] != weight.shape[0]:
        raise ToolkitError(f"LoRA matrices of shape {lora_a.shape} and {lora_b.shape} do not fit a weight of "
                           f"shape {weight.shape}; the adapter belongs to another base or rank")
    delta = lora_b.astype(np.float32) @ lora_a.astype(np.float32)
    return weight.astype(np.float32) + np.float32(factor) * delta


def merge_weight(weight: np.ndarray, lora_a: np.ndarray, lora_b: np.ndarray, factor: float) -> np.ndarray:
    """Folds an adapter into its weight: add_product in the base weight's dtype.

    Raises:
        ToolkitError: Shapes do not belong together, or the result is not finite.
    """
    merged = add_product(weight, lora_a, lora_b, factor).astype(weight.dtype)
    if not np.isfinite(merged.astype(np.float32)).all():
        raise ToolkitError("the merged weight is not finite (NaN, or beyond the range of "
                           f"{weight.dtype}); the run overflowed, merge an earlier checkpoint")
    return merged
