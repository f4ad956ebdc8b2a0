"""The linear layers of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research_internlm.data.families import by_config_type


@dataclass(frozen=True)
class Linear:
    """One linear cell of a decoder layer: its local name and shape."""

    name: str
    in_channels: int
    out_channels: int
    has_bias: bool

    @property
    def parameters(self) -> int:
        return self.out_channels * (self.in_channels + self.has_bias)


def intermediate_size(model_config: Mapping[str, Any]) -> int:
    """Width of the feed-forward layer, as LlamaFeedForward derives it."""
    if model_config.get("intermediate_size"):
        return model_config["intermediate_size"]
    width = 4 * model_config["hidden_size"]
    if model_config.get("ffn_dim_multiplier") is not None:
        width = int((model_config["ffn_dim_multiplier"] + 0.01) * width)
    multiple = model_config.get("multiple_of") or 256
    return -(-int(2 * width / 3) // multiple) * multiple


def layer_linears(model_config: Mapping[str, Any]) -> list[Linear]:
    """The linear cells of one decoder layer (separate wq, wk, wv: qkv_concat False)."""
    hidden = model_config["hidden_size"]
    heads = model_config["num_heads"]
    kv_width = hidden // heads * (model_config.get("n_kv_heads") or heads)
    width = intermediate_size(model_config)
    qkv_bias = has_bias(model_config, "qkv_has_bias")
    return [
        Linear("wq", hidden, hidden, qkv_bias),
        Linear("wk", hidden, kv_width, qkv_bias),
        Linear("wv", hidden, kv_width, qkv_bias),
        Linear("wo", hidden, hidden, has_bias(model_config, "attn_proj_has_bias")),
        Linear("w1", hidden, width, False),
        Linear("w2", width, hidden, False),
        Linear("w3", hidden, width, False),
    ]


def has_bias(model_config: Mapping[str, Any], flag: str) -> bool:
    """Whether attention projections carry a bias; `has_bias` stands for both flags."""
    family = by_config_type(model_config.get("type"))
    default = model_config.get("has_bias", family is not None and family.has_bias)
    return bool(model_config.get(flag, default))
