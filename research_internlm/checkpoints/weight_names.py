"""The owner of parameter names: MindFormers <-> Hugging Face, one table, both directions.

MindFormers' Llama, and with it this toolkit, has one spelling. Hugging Face has two: InternLM's, which is
Llama's (internlm-7b's modeling_internlm.py), and InternLM2's, where wq, wk and wv are one fused tensor
(internlm2-7b's modeling_internlm2.py). No tensor is transposed or permuted on the way.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research_internlm.data.families import INTERNLM2_NAMES, LLAMA_NAMES
from research_internlm.model import shape
from research_internlm.shared.errors import ToolkitError

_SPELLINGS = (LLAMA_NAMES, INTERNLM2_NAMES)  # of Hugging Face, in the order of the columns below

# MindFormers: (Llama and InternLM, InternLM2). Whole names, then the cells of a layer.
_TOP = {
    "model.tok_embeddings.embedding_weight": ("model.embed_tokens.weight", "model.tok_embeddings.weight"),
    "model.norm_out.weight": ("model.norm.weight", "model.norm.weight"),
    "lm_head.weight": ("lm_head.weight", "output.weight"),
}
_CELLS = {
    "attention.wq": ("self_attn.q_proj", "attention.wqkv"),
    "attention.wk": ("self_attn.k_proj", "attention.wqkv"),
    "attention.wv": ("self_attn.v_proj", "attention.wqkv"),
    "attention.wo": ("self_attn.o_proj", "attention.wo"),
    "feed_forward.w1": ("mlp.gate_proj", "feed_forward.w1"),
    "feed_forward.w2": ("mlp.down_proj", "feed_forward.w2"),
    "feed_forward.w3": ("mlp.up_proj", "feed_forward.w3"),
    "attention_norm": ("input_layernorm", "attention_norm"),
    "ffn_norm": ("post_attention_layernorm", "ffn_norm"),
}
_LAYER_NAME = re.compile(r"(model\.layers\.\d+\.)(.+)\.(\w+)")
_OPTIMIZER_PREFIXES = ("adam_m.", "adam_v.", "moments.", "exp_avg")
_ONE_LAYER = re.compile(r"(model\.layers\.)(\d+)(\..+)")
_PEFT_PREFIX = "base_model.model."
_PEFT_MATRIX = re.compile(re.escape(_PEFT_PREFIX) + r"(.+)\.lora_[AB]\.weight")
_QUANTISED_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_PEFT_SUFFIXES = {"mindpet_delta_lora_a": "lora_A.weight", "mindpet_delta_lora_b": "lora_B.weight"}


@dataclass(frozen=True)
class Source:
    """Where a parameter lies in Hugging Face's tensors.

    Attributes:
        name: The tensor.
        rows: (start, stop) ranges of its rows that make up the parameter in order; None for all.
    """

    name: str
    rows: tuple[tuple[int, int], ...] | None = None


def to_hf(name: str, spelling: str = LLAMA_NAMES) -> str:
    """Hugging Face's name of the tensor that holds a MindFormers parameter.

    Args:
        name: MindFormers' name, e.g. `model.layers.0.attention.wq.weight`.
        spelling: LLAMA_NAMES or INTERNLM2_NAMES.

    Raises:
        KeyError: The model has no such parameter.
    """
    column = _SPELLINGS.index(spelling)
    match = _LAYER_NAME.fullmatch(name)
    if not match:
        return _TOP[name][column]
    layer, cell, kind = match.groups()
    return f"{layer}{_CELLS[cell][column]}.{kind}"


def from_hf(name: str, spelling: str = LLAMA_NAMES) -> tuple[str, ...]:
    """MindFormers' parameters that a Hugging Face tensor holds: one, or three for a fused wqkv.

    Raises:
        KeyError: Hugging Face's model has no such tensor.
    """
    column = _SPELLINGS.index(spelling)
    match = _LAYER_NAME.fullmatch(name)
    if not match:
        found = [ours for ours, theirs in _TOP.items() if theirs[column] == name]
    else:
        layer, cell, kind = match.groups()
        found = [f"{layer}{ours}.{kind}" for ours, theirs in _CELLS.items() if theirs[column] == cell]
    if not found:
        raise KeyError(name)
    return tuple(found)


def source_of(name: str, spelling: str, model_config: Mapping[str, Any]) -> Source:
    """Where to find a MindFormers parameter in Hugging Face's tensors.

    InternLM2's wqkv is, for each key-value head, its query heads, then the key head, then the value head
    (`b q (h gs d) -> b q h gs d` in modeling_internlm2.py).

    Args:
        name: MindFormers' name.
        spelling: LLAMA_NAMES or INTERNLM2_NAMES.
        model_config: Its `hidden_size`, `num_heads` and `n_kv_heads`.
    """
    source = to_hf(name, spelling)
    if ".wqkv." not in source:
        return Source(source)
    heads = model_config["num_heads"]
    groups = model_config.get("n_kv_heads") or heads
    head_rows = model_config["hidden_size"] // heads
    queries = heads // groups
    first, count = {"wq": (0, queries), "wk": (queries, 1), "wv": (queries + 1, 1)}[name.split(".")[-2]]
    starts = [(group * (queries + 2) + first) * head_rows for group in range(groups)]
    return Source(source, tuple((start, start + count * head_rows) for start in starts))


def is_buffer(name: str) -> bool:
    """Whether a Hugging Face tensor is a computed table (`rotary_emb.inv_freq`), not a weight."""
    return ".rotary_emb." in name


def is_training_state(name: str) -> bool:
    """Whether a checkpoint's value is the optimizer's or a counter (`step_num`), not a weight."""
    return "." not in name or name.startswith(_OPTIMIZER_PREFIXES)


def is_adapter(name: str) -> bool:
    """Whether a parameter is a LoRA matrix."""
    return name.rsplit(".", 1)[-1] in _PEFT_SUFFIXES and not is_training_state(name)


def is_peft(name: str) -> bool:
    """Whether a tensor is named as PEFT (and XTuner) name an adapter's."""
    return name.startswith(_PEFT_PREFIX)


def is_quantised(name: str) -> bool:
    """Whether a tensor is a part of a weight that GPTQ or AWQ quantised."""
    return name.rsplit(".", 1)[-1] in _QUANTISED_PARTS


def to_peft(name: str) -> str:
    """PEFT's name of a LoRA matrix; the shapes are the same, A (rank, in) and B (out, rank)."""
    cell, _, kind = name.rpartition(".")
    return f"{_PEFT_PREFIX}{to_hf(cell + '.weight').removesuffix('weight')}{_PEFT_SUFFIXES[kind]}"


def from_peft(name: str) -> tuple[str, tuple[str, ...]]:
    """The spelling of a PEFT tensor's name, and the MindFormers weights that it adapts.

    No weights where the tensor is no LoRA matrix, or not one of a model that is known here.
    """
    match = _PEFT_MATRIX.fullmatch(name)
    for spelling in _SPELLINGS if match else ():
        with contextlib.suppress(KeyError):
            return spelling, from_hf(f"{match[1]}.weight", spelling)
    return LLAMA_NAMES, ()


def parameter_shapes(model_config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model, MindFormers' names, without an adapter.

    Args:
        model_config: A recipe's `model.model_config`.

    Returns:
        Name to shape, in the order of the forward pass.
    """
    hidden = model_config["hidden_size"]
    embedding = (model_config["vocab_size"], hidden)
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.embedding_weight": embedding}
    for layer in range(model_config["num_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}attention_norm.weight"] = (hidden,)
        for linear in shape.layer_linears(model_config):
            block = "attention" if f"attention.{linear.name}" in _CELLS else "feed_forward"
            if linear.name == "w1":
                shapes[f"{prefix}ffn_norm.weight"] = (hidden,)
            shapes[f"{prefix}{block}.{linear.name}.weight"] = (linear.out_channels, linear.in_channels)
            if linear.has_bias:
                shapes[f"{prefix}{block}.{linear.name}.bias"] = (linear.out_channels,)
    return {**shapes, "model.norm_out.weight": (hidden,), "lm_head.weight": embedding}


def require_parameters(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]],
                       where: str, hint: str) -> None:
    """Checks that a checkpoint holds exactly the wanted tensors.

    Args:
        found: Name to shape of what is there.
        wanted: Name to shape of what must be there.
        where: The file, for the message.
        hint: What to do, for the message.

    Raises:
        ToolkitError: With all missing, extra and mis-shaped tensors at once.
    """
    problems = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in (
        ("missing", [name for name in wanted if name not in found]),
        ("extra", [name for name in found if name not in wanted]),
        ("of another shape", [f"{name} is {found[name]}, expected {shape}" for name, shape in wanted.items()
                              if name in found and found[name] != shape]),
    ) if names]
    if problems:
        raise ToolkitError(f"{where} does not fit the model: {'; '.join(problems)}; {hint}")


def _listed(names: list[str]) -> str:
    """All names; those that differ in the layer only are one entry, as a wrong layer count gives hundreds."""
    layers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = _ONE_LAYER.fullmatch(name)
        start, layer, end = match.groups() if match else (name, None, "")
        layers.setdefault((start, end), []).extend([] if layer is None else [int(layer)])
    return ", ".join(start + _ranges(sorted(numbers)) + end for (start, end), numbers in layers.items())


def _ranges(numbers: list[int]) -> str:
    """[3] -> `3`, [0, 1, 2, 5] -> `{0-2,5}`, [] -> nothing."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("-".join(map(str, run)) for run in runs)
    return f"{{{text}}}" if len(numbers) > 1 else text
