"""The owner of config.json: Hugging Face's description of a model <-> a recipe's `model_config`.

Exports are Llama configurations, because transformers then needs no remote code: InternLM is Llama with
attention biases, InternLM2 and InternLM3 are Llama with grouped-query attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research_internlm.data.families import FAMILIES, INTERNLM, INTERNLM3, LLAMA_NAMES, Family, by_config_type
from research_internlm.model import shape
from research_internlm.recipes.positions import length_problem
from research_internlm.shared.arguments import is_number, is_whole
from research_internlm.shared.errors import ToolkitError

_BY_MODEL_TYPE = {row.hf_model_type: row for row in FAMILIES.values()}
_LLAMA = "llama"  # also accepted: a family's weights under Llama's names, as our exports are
_MODEL_TYPES = (*_BY_MODEL_TYPE, _LLAMA)
# Whose form an export has. Without it transformers 4.57.3 to 4.57.6 warn of a tokenizer that is right.
_TRANSFORMERS_VERSION = "4.57.1"
_TORCH_TYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
# "dynamic" NTK changes the rotary angles only beyond max_position_embeddings; "origin" is InternLM's word for
# none.
_HARMLESS_ROPE_TYPES = ("default", "origin", "dynamic")
_ROPE_KEYS = ("rope_scaling", "rope_parameters", "rotary")
_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
_COUNT, _POSITIVE = "a positive whole number", "a positive number"
_SWITCH, _MAPPING = "true or false", "a mapping"
# Default of the releases' own configuration classes, which config.json leaves out where it applies. Source:
# configuration_internlm.py and configuration_internlm2.py of the releases, and transformers' LlamaConfig.
_RMS_NORM_EPS = 1e-6
# What config.json's values must be, where they are given.
_HF_KINDS = {
    **dict.fromkeys(_NEEDED, _COUNT),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings"), _COUNT),
    **dict.fromkeys(("rms_norm_eps", "rope_theta"), _POSITIVE),
    **dict.fromkeys(("bias", "qkv_bias", "attention_bias", "mlp_bias", "tie_word_embeddings"),
                    _SWITCH),
    **dict.fromkeys(("rope_scaling", "rope_parameters", "rotary"), _MAPPING),
}
# What a recipe's model_config must say for its weights to be named, merged and exported.
_RECIPE_NEEDED = ("hidden_size", "num_layers", "num_heads", "vocab_size", "seq_length")
_RECIPE_KINDS = {
    **dict.fromkeys(_RECIPE_NEEDED, _COUNT),
    **dict.fromkeys(("n_kv_heads", "intermediate_size", "multiple_of", "max_position_embedding"), _COUNT),
    **dict.fromkeys(("rms_norm_eps", "theta", "ffn_dim_multiplier"), _POSITIVE),
    **dict.fromkeys(("has_bias", "qkv_has_bias", "attn_proj_has_bias", "tie_word_embeddings", "qkv_concat"),
                    _SWITCH),
    "pet_config": _MAPPING,
    "rope_scaling": _MAPPING,
}
_MOST_LAYERS = 10_000  # names of parameters are listed layer by layer
# Other keys that an export reads.
EXPORT_KEYS = frozenset({*_RECIPE_KINDS, "type", "extend_method", "bos_token_id", "eos_token_id",
                         "pad_token_id"})


def spelling_of(config: Mapping[str, Any]) -> str:
    """How the tensors of this config.json are named: LLAMA_NAMES or INTERNLM2_NAMES."""
    return LLAMA_NAMES if config["model_type"] == _LLAMA else _BY_MODEL_TYPE[config["model_type"]].hf_names


def _family_of(config: Mapping[str, Any]) -> tuple[Family, bool]:
    """The family of a checked config.json, and whether its attention has biases.

    A Llama is read as the first family with its kind of attention: the others' networks are the same.
    """
    if config["model_type"] == _LLAMA:
        has_bias = _given(config, "attention_bias", False)
        return next(row for row in FAMILIES.values() if row.has_bias == has_bias), has_bias
    family = _BY_MODEL_TYPE[config["model_type"]]
    return family, _given(config, family.hf_bias_key, family.has_bias)


def to_model_config(config: Any) -> dict[str, Any]:
    """A recipe's shape keys from a config.json.

    Args:
        config: Of InternLM, InternLM2, or a Llama of their structure.

    Returns:
        The keys of `model.model_config` that describe the model, MindFormers' names.

    Raises:
        ToolkitError: A key is missing or no such value, or the structure is not one of theirs; all findings
            at once.
    """
    _require_internlm(config)
    family, has_bias = _family_of(config)
    return {
        "type": family.config_type,
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "n_kv_heads": _given(config, "num_key_value_heads", config["num_attention_heads"]),
        "intermediate_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "rms_norm_eps": _given(config, "rms_norm_eps", _RMS_NORM_EPS),
        "theta": next(iter(_thetas(config).values()), 10000.0),
        "max_position_embedding": _given(config, "max_position_embeddings", 2048),
        "has_bias": has_bias,
        **_carried_scaling(config),
    }


def _carried_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling of the rotary angles beyond max_position_embeddings, as a recipe keeps it."""
    rope = _rope(config)
    if _rope_type(rope) != "dynamic" or rope.get("factor") is None:
        return {}
    return {"rope_scaling": {"rope_type": "dynamic", "factor": rope["factor"]}}


def left_out(config: Mapping[str, Any]) -> list[str]:
    """What of a config.json a recipe does not take over, for the user to read."""
    rope = _rope(config)
    if _rope_type(rope) != "dynamic" or _carried_scaling(config):
        return []
    longest = _given(config, "max_position_embeddings", 2048)
    return [f"config.json's dynamic rotary scaling {dict(rope)} is left out: it changes the angles only "
            f"beyond {longest} tokens, which MindFormers' Llama does not go"]


def check_model_config(model_config: Mapping[str, Any], where: str) -> None:
    """Checks the values of a recipe that say what its weights are.

    MindFormers' own check of a recipe (recipes/check.py) needs MindSpore, which the weights do not.

    Args:
        model_config: A recipe's `model.model_config`.
        where: The config's file, for the message.

    Raises:
        ToolkitError: Values are missing, impossible, or describe another structure; all at once.
    """
    wrong = shape_problems(model_config)
    if not wrong and (problem := length_problem(model_config)):
        wrong.append(problem)
    for key in ("tie_word_embeddings", "qkv_concat"):
        if model_config.get(key) is True:
            wrong.append(f"{key} is True (InternLM's models have separate weights there; leave it out)")
    if wrong:
        raise ToolkitError(f"{where}, model.model_config: {'; '.join(wrong)}")


def shape_problems(model_config: Mapping[str, Any]) -> list[str]:
    """Values of a recipe's `model.model_config` that are missing or that no weights can have."""
    wrong = [f"{key} is missing" for key in _RECIPE_NEEDED if model_config.get(key) is None]
    wrong += _misvalued(model_config, _RECIPE_KINDS)
    if not wrong and model_config["num_layers"] > _MOST_LAYERS:
        wrong.append(f"num_layers is {model_config['num_layers']:,}, more than any model has")
    if not wrong:
        heads = model_config["num_heads"]
        wrong += _uneven(heads, model_config["hidden_size"], model_config.get("n_kv_heads"), "n_kv_heads")
    return wrong


def _given(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """A value of config.json, where null stands for the default."""
    return default if config.get(key) is None else config[key]


def _misvalued(config: Mapping[str, Any], kinds: Mapping[str, str]) -> list[str]:
    """Findings on values that are given and not of their kind."""
    tests = {
        _COUNT: lambda value: is_whole(value, 1),
        _POSITIVE: lambda value: is_number(value) and value > 0,
        _SWITCH: lambda value: type(value) is bool,
        _MAPPING: lambda value: isinstance(value, Mapping),
    }
    return [f"{key} is {config[key]!r}, not {kind}" for key, kind in kinds.items()
            if config.get(key) is not None and not tests[kind](config[key])]


def _uneven(heads: int, hidden: int, groups: int | None, groups_key: str) -> list[str]:
    wrong = []
    if hidden % heads:
        wrong.append(f"hidden_size {hidden} is not divided by {heads} heads")
    if groups and heads % groups:
        wrong.append(f"{groups_key} {groups} does not divide {heads} heads")
    return wrong


def _require_internlm(config: Any) -> None:
    """Raises a ToolkitError unless a config.json describes a model of one of the families' structure."""
    if not isinstance(config, dict):
        raise ToolkitError(f"config.json holds a {type(config).__name__}, not a mapping of settings; "
                           "download it again")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _MODEL_TYPES:
        raise ToolkitError(f"config.json says model_type {model_type!r}; this toolkit knows "
                           f"{', '.join(_MODEL_TYPES)}")
    wrong = [f"{key} is missing" for key in _NEEDED if config.get(key) is None]
    wrong += _misvalued(config, _HF_KINDS)
    if not wrong:
        wrong = _unsupported(config)
    if wrong:
        raise ToolkitError(f"config.json does not describe one of InternLM's models: {'; '.join(wrong)}")


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, wherever this config keeps them: Llama's and InternLM2's `rope_scaling`, the
    `rope_parameters` of transformers 5, or InternLM's `rotary` ({"base": 10000, "type": "dynamic"})."""
    return next((config[key] for key in _ROPE_KEYS if config.get(key)), {})


def _thetas(config: Mapping[str, Any]) -> dict[str, Any]:
    """Base of the rotary angles by the key it stands under; without any, the classes' default is 10000."""
    stated = {"rope_theta": config.get("rope_theta")}
    for key in _ROPE_KEYS:
        stated |= {f"{key}.{name}": (config.get(key) or {}).get(name) for name in ("rope_theta", "base")}
    return {key: value for key, value in stated.items() if value is not None}


def _rope_type(rope: Mapping[str, Any]) -> str:
    return rope.get("rope_type") or rope.get("type") or "default"


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    """Findings on a structure that is not theirs; the values are of their kinds."""
    wrong = []
    if _given(config, "hidden_act", "silu") not in ("silu", "swish"):
        wrong.append(f"hidden_act {config['hidden_act']} (theirs is silu)")
    if config.get("mlp_bias"):
        wrong.append("mlp_bias True (their feed-forward layers have none)")
    if config["model_type"] == INTERNLM3 and (config.get("bias") or config.get("qkv_bias")):
        wrong.append("bias or qkv_bias True (no InternLM3 release has biases)")
    heads, hidden, head_size = (config.get(key) for key in ("num_attention_heads", "hidden_size", "head_dim"))
    if head_size and head_size * heads != hidden:
        wrong.append(f"head_dim {head_size} x {heads} heads is not hidden_size {hidden}")
    wrong += _uneven(heads, hidden, config.get("num_key_value_heads"), "num_key_value_heads")
    rope, thetas = _rope(config), _thetas(config)
    if misvalued := _misvalued(thetas, dict.fromkeys(thetas, _POSITIVE)):
        wrong += misvalued
    elif len(set(thetas.values())) > 1:
        wrong.append("the rotary base is stated twice with different values ("
                     + ", ".join(f"{key} {value}" for key, value in thetas.items()) + ")")
    if (factor := rope.get("factor")) is not None and not (is_number(factor) and factor >= 1):
        wrong.append(f"the rotary factor is {factor!r}, not a number of at least 1")
    if _rope_type(rope) not in _HARMLESS_ROPE_TYPES:
        wrong.append(f"rope_scaling {_rope_type(rope)} (only {', '.join(_HARMLESS_ROPE_TYPES)} leave the "
                     "angles within max_position_embeddings alone)")
    return wrong


def from_model_config(model_config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json that lets transformers build the model as a Llama.

    Args:
        model_config: A recipe's `model.model_config`.
        dtype: `fp16`, `bf16` or `fp32`, of the weights.

    Raises:
        ToolkitError: Llama's code cannot express it.
    """
    biases = {shape.has_bias(model_config, flag) for flag in ("qkv_has_bias", "attn_proj_has_bias")}
    if len(biases) > 1:
        raise ToolkitError("the config has biases on only some of wq, wk, wv and wo; transformers' Llama has "
                           "them on all or none")
    if model_config.get("extend_method", "None") not in (None, "None"):
        raise ToolkitError(f"the config's extend_method {model_config['extend_method']} has no counterpart "
                           "in transformers' Llama; export without it")
    scaling = model_config.get("rope_scaling") or {}
    if scaling and (scaling.get("rope_type") != "dynamic" or not is_number(scaling.get("factor"))):
        raise ToolkitError(f"the config's rope_scaling is {dict(scaling)}; an export carries the releases' "
                           "own, {rope_type: dynamic, factor: NUMBER}")
    family = by_config_type(model_config.get("type")) or FAMILIES[INTERNLM]
    heads = model_config["num_heads"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": model_config["hidden_size"],
        "intermediate_size": shape.intermediate_size(model_config),
        "num_hidden_layers": model_config["num_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": model_config.get("n_kv_heads") or heads,
        "vocab_size": model_config["vocab_size"],
        "rms_norm_eps": model_config.get("rms_norm_eps", family.rms_norm_eps),
        "rope_theta": model_config.get("theta", family.theta),
        # Under both names: transformers before 4.43 and llama.cpp read `type`.
        **({"rope_scaling": {"type": "dynamic", **scaling}} if scaling else {}),
        "attention_bias": biases.pop(),
        "mlp_bias": False,
        # As MindFormers' FreqsMgr takes the two.
        "max_position_embeddings": max(model_config.get("max_position_embedding") or 0,
                                       model_config.get("seq_length", 0)),
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": _TORCH_TYPES[dtype],
        "transformers_version": _TRANSFORMERS_VERSION,
        **token_ids(model_config),
    }


def generation_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json of an export: greedy, with the recipe's token ids."""
    return {"do_sample": False, **token_ids(model_config)}


def token_ids(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """bos, eos and pad ids of a recipe, as config.json and generation_config.json name them."""
    return {"bos_token_id": model_config.get("bos_token_id", 1),
            "eos_token_id": model_config.get("eos_token_id", 2),
            "pad_token_id": model_config.get("pad_token_id", 0)}
