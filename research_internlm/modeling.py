"""InternLM for causal language modelling: MindFormers' Llama under InternLM's name.

With biases on the attention projections, MindFormers 1.9.0's Llama is InternLM's structure and gives its
parameters the same names, so nothing is computed here.
"""

from __future__ import annotations

from mindformers.models.llama import LlamaForCausalLM
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from research_internlm.config import InternLMConfig


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class InternLMForCausalLM(LlamaForCausalLM):
    """InternLM with a language-model head; inputs and outputs as LlamaForCausalLM's."""

    config_class = InternLMConfig
