"""InternLM's configuration class, registered with MindFormers."""

from __future__ import annotations

from typing import Any

from mindformers.models.llama import LlamaConfig
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from research_internlm.tokens import INTERNLM_VOCAB_SIZE


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class InternLMConfig(LlamaConfig):
    """InternLM's shape as a Llama configuration; the defaults are InternLM-7B's.

    Args:
        has_bias: Biases on wq, wk, wv and wo (True for 7B, False for 20B, which is a plain Llama).
            Source: research/internlm/internlm_config.py.
        vocab_size: Pieces of the vocabulary.
        multiple_of: The feed-forward width is rounded up to it (11008 for 7B).
        rms_norm_eps: Epsilon of the norms.
        **kwargs: Everything LlamaConfig takes.
    """

    model_type = "internlm"

    def __init__(
        self,
        has_bias: bool = True,
        vocab_size: int = INTERNLM_VOCAB_SIZE,
        multiple_of: int = 256,
        rms_norm_eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("qkv_has_bias", has_bias)
        kwargs.setdefault("attn_proj_has_bias", has_bias)
        super().__init__(vocab_size=vocab_size, multiple_of=multiple_of, rms_norm_eps=rms_norm_eps, **kwargs)
        self.has_bias = has_bias
