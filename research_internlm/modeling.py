"""InternLM and InternLM2 for causal language modelling: MindFormers' Llama under their names.

With biases on the attention projections, MindFormers 1.9.0's Llama is InternLM's structure, with
grouped-query attention it is InternLM2's, so nothing is computed here.
"""

from __future__ import annotations

from mindformers.models.llama import LlamaForCausalLM
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from research_internlm.config import InternLM2Config, InternLMConfig


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class InternLMForCausalLM(LlamaForCausalLM):
    """InternLM with a language-model head; inputs and outputs as LlamaForCausalLM's."""

    config_class = InternLMConfig


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class InternLM2ForCausalLM(LlamaForCausalLM):
    """InternLM2 with a language-model head; inputs and outputs as LlamaForCausalLM's."""

    config_class = InternLM2Config
