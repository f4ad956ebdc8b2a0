"""The owner of config.json: Hugging Face's description of a model <-> a recipe's `model_config`.

Exports are Llama configurations, because transformers then needs no remote code: InternLM is Llama with
attention biases, InternLM2 is Llama with grouped-query attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from research_internlm import lora
from research_internlm.errors import ToolkitError
from research_internlm.weight_names import INTERNLM2, LLAMA

# What the classes of research_internlm.config take for a key the recipe does not state.
DEFAULTS = MappingProxyType({
    "InternLMConfig": MappingProxyType({"rms_norm_eps": 1e-6, "theta": 10000.0}),
    "InternLM2Config": MappingProxyType({"rms_norm_eps": 1e-5, "theta": 1000000.0}),
})
# model_type -> spelling of the tensors' names, key of the attention biases, its default
_MODEL_TYPES = {
    "internlm": (LLAMA, "bias", True),
    "llama": (LLAMA, "attention_bias", False),
    "internlm2": (INTERNLM2, "bias", False),
}
_TORCH_TYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
# "dynamic" NTK changes the rotary angles only beyond max_position_embeddings; "origin" is InternLM's word for
# none.
_HARMLESS_ROPE_TYPES = ("default", "origin", "dynamic")


def spelling_of(config: Mapping[str, Any]) -> str:
    """How the tensors of this config.json are named: weight_names.LLAMA or INTERNLM2.

    Raises:
        ToolkitError: Another kind of model.
    """
    model_type = config.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise ToolkitError(f"config.json says model_type {model_type!r}; this toolkit knows "
                           f"{', '.join(_MODEL_TYPES)}")
    return _MODEL_TYPES[model_type][0]


def to_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's shape keys from a config.json.

    Args:
        config: Of InternLM, InternLM2, or a Llama of their structure.

    Returns:
        The keys of `model.model_config` that describe the model, MindFormers' names.

    Raises:
        ToolkitError: A key is missing, or the structure is not one of theirs; all findings at once.
    """
    spelling = spelling_of(config)
    _, bias_key, bias = _MODEL_TYPES[config["model_type"]]
    missing = [key for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                               "intermediate_size") if key not in config]
    if missing:
        raise ToolkitError(f"config.json has no {', '.join(missing)}")
    has_bias = config.get(bias_key, bias)
    is_internlm = config["model_type"] == "internlm" or (spelling == LLAMA and has_bias)
    kind = "InternLMConfig" if is_internlm else "InternLM2Config"
    wrong = _unsupported(config)
    if wrong:
        raise ToolkitError(f"config.json describes no InternLM or InternLM2: {'; '.join(wrong)}")
    rope = _rope(config)
    return {
        "type": kind,
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "n_kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "intermediate_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "rms_norm_eps": config.get("rms_norm_eps", DEFAULTS[kind]["rms_norm_eps"]),
        "theta": config.get("rope_theta") or rope.get("rope_theta") or rope.get("base") or 10000.0,
        "max_position_embedding": config.get("max_position_embeddings", 2048),
        "has_bias": has_bias,
    }


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, wherever this config keeps them: Llama's and InternLM2's `rope_scaling`, the
    `rope_parameters` of transformers 5, or InternLM's `rotary` ({"base": 10000, "type": "dynamic"})."""
    return next((config[key] for key in ("rope_scaling", "rope_parameters", "rotary") if config.get(key)), {})


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    wrong = []
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        wrong.append(f"hidden_act {config['hidden_act']} (theirs is silu)")
    if config.get("mlp_bias"):
        wrong.append("mlp_bias True (their feed-forward layers have none)")
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    if head_size * heads != config["hidden_size"]:
        wrong.append(f"head_dim {head_size} x {heads} heads is not hidden_size {config['hidden_size']}")
    if heads % (config.get("num_key_value_heads") or heads):
        wrong.append(f"num_key_value_heads {config['num_key_value_heads']} does not divide {heads} heads")
    rope = _rope(config)
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type not in _HARMLESS_ROPE_TYPES:
        wrong.append(f"rope_scaling {rope_type} (only {', '.join(_HARMLESS_ROPE_TYPES)} leave the angles "
                     "within max_position_embeddings alone)")
    return wrong


def from_model_config(model_config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json that lets transformers build the model as a Llama.

    Args:
        model_config: A recipe's `model.model_config`.
        dtype: `fp16`, `bf16` or `fp32`, of the weights.

    Raises:
        ToolkitError: Llama's code cannot express it.
    """
    biases = {lora.has_bias(model_config, flag) for flag in ("qkv_has_bias", "attn_proj_has_bias")}
    if len(biases) > 1:
        raise ToolkitError("the config has biases on only some of wq, wk, wv and wo; transformers' Llama has "
                           "them on all or none")
    if model_config.get("extend_method", "None") not in (None, "None"):
        raise ToolkitError(f"the config's extend_method {model_config['extend_method']} has no counterpart "
                           "in transformers' Llama; export without it")
    kind = model_config.get("type", "InternLMConfig")
    defaults = DEFAULTS.get(kind, DEFAULTS["InternLMConfig"])
    heads = model_config["num_heads"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": model_config["hidden_size"],
        "intermediate_size": lora.intermediate_size(model_config),
        "num_hidden_layers": model_config["num_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": model_config.get("n_kv_heads") or heads,
        "vocab_size": model_config["vocab_size"],
        "rms_norm_eps": model_config.get("rms_norm_eps", defaults["rms_norm_eps"]),
        "rope_theta": model_config.get("theta", defaults["theta"]),
        "attention_bias": biases.pop(),
        "mlp_bias": False,
        "max_position_embeddings": model_config.get("max_position_embedding") or model_config["seq_length"],
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": _TORCH_TYPES[dtype],
        **token_ids(model_config),
    }


def token_ids(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """bos, eos and pad ids of a recipe, as config.json and generation_config.json name them."""
    return {"bos_token_id": model_config.get("bos_token_id", 1),
            "eos_token_id": model_config.get("eos_token_id", 2),
            "pad_token_id": model_config.get("pad_token_id", 0)}
