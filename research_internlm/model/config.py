"""Configuration classes of InternLM, InternLM2 and InternLM3, registered with MindFormers."""

from __future__ import annotations

from typing import Any

from mindformers.models.llama import LlamaConfig
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from research_internlm.data.families import FAMILIES, INTERNLM, INTERNLM2, INTERNLM3, by_config_type

_INTERNLM, _INTERNLM2, _INTERNLM3 = FAMILIES[INTERNLM], FAMILIES[INTERNLM2], FAMILIES[INTERNLM3]


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class InternLMConfig(LlamaConfig):
    """InternLM's shape as a Llama configuration; the defaults are InternLM-7B's.

    Args:
        has_bias: Biases on wq, wk, wv and wo (True for 7B, False for 20B, which is a plain Llama).
            Source: research/internlm/internlm_config.py.
        vocab_size: Pieces of the vocabulary.
        multiple_of: The feed-forward width is rounded up to it (11008 for 7B).
        packed: Rows hold several samples that must not see each other (packed_mask.py).
        labels_per_row: Most labels in a training row, so that head and loss are computed at no more
            positions; 0 computes them everywhere, as MindFormers does.
        head_init_std: Standard deviation that the head of a new model is drawn with; None leaves MindFormers'
            0.01, whatever `init_method_std` says of all other matrices.
        rope_scaling: The releases' "dynamic" scaling of the rotary angles. It acts only beyond
            max_position_embedding, which no row may exceed (recipes/positions.py), so nothing here computes
            it; exports pass it on.
        **kwargs: Everything LlamaConfig takes.
    """

    model_type = _INTERNLM.hf_model_type

    def __init__(
        self,
        has_bias: bool = _INTERNLM.has_bias,
        vocab_size: int = _INTERNLM.vocab_size,
        multiple_of: int = 256,
        packed: bool = False,
        labels_per_row: int = 0,
        head_init_std: float | None = None,
        rope_scaling: dict | None = None,
        **kwargs: Any,
    ) -> None:
        family = by_config_type(type(self).__name__)
        kwargs = {"qkv_has_bias": has_bias, "attn_proj_has_bias": has_bias,
                  "rms_norm_eps": family.rms_norm_eps, "theta": family.theta, **kwargs}
        super().__init__(vocab_size=vocab_size, multiple_of=multiple_of, **kwargs)
        self.has_bias = has_bias
        self.packed = packed
        self.labels_per_row = labels_per_row
        self.head_init_std = head_init_std
        self.rope_scaling = rope_scaling


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class InternLM2Config(InternLMConfig):
    """InternLM2's shape: grouped-query attention (`n_kv_heads`), no biases, its own vocabulary and angles.

    Args:
        has_bias: As InternLMConfig's; no InternLM2 release has biases.
        vocab_size: Pieces of the vocabulary.
        **kwargs: Everything LlamaConfig takes; yaml/overlays/internlm2_*.yaml have the releases' sizes.
            Source: research/internlm2 of MindFormers r1.3.0 and the releases' config.json.
    """

    model_type = _INTERNLM2.hf_model_type

    def __init__(self, has_bias: bool = _INTERNLM2.has_bias, vocab_size: int = _INTERNLM2.vocab_size,
                 **kwargs: Any) -> None:
        super().__init__(has_bias=has_bias, vocab_size=vocab_size, **kwargs)


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class InternLM3Config(InternLMConfig):
    """InternLM3's shape: as InternLM2's, with another vocabulary and other angles.

    Args:
        has_bias: As InternLMConfig's; no InternLM3 release has biases.
        vocab_size: Rows of the embedding.
        **kwargs: Everything LlamaConfig takes; yaml/overlays/internlm3_8b.yaml has the release's size.
            Source: config.json of internlm3-8b-instruct.
    """

    model_type = _INTERNLM3.hf_model_type

    def __init__(self, has_bias: bool = _INTERNLM3.has_bias, vocab_size: int = _INTERNLM3.vocab_size,
                 **kwargs: Any) -> None:
        super().__init__(has_bias=has_bias, vocab_size=vocab_size, **kwargs)
