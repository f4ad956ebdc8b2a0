"""InternLM, InternLM2 and InternLM3 for causal language modelling: MindFormers' Llama under their names.

With biases on the attention projections, MindFormers 1.9.0's Llama is InternLM's structure, with
grouped-query attention it is InternLM2's and InternLM3's, so no layer is computed here. What is added serves
training: the mask of packed rows, and a head that is computed only where there is a label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindformers.models.llama import LlamaForCausalLM
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore import Tensor, dtype, ops
from mindspore.common.initializer import Normal, initializer

from research_internlm.model.config import InternLM2Config, InternLM3Config, InternLMConfig
from research_internlm.model.packed_mask import PackedCausalMask


class _InternLMForCausalLM(LlamaForCausalLM):
    """Llama with packed rows and a head at the labels, where the config asks for them.

    Args:
        config: `packed` replaces the causal mask. `labels_per_row` above 0 computes, in training, head and
            loss at that many positions of each row, the first ones with a label; a row must not have more.

    Inputs and outputs are LlamaForCausalLM's.
    """

    # MindSpore's compiler takes super() from the class of the instance, so it would call itself.
    llama_construct = LlamaForCausalLM.construct

    def __init__(self, config: InternLMConfig) -> None:
        # By keyword: MindFormers reads disable_lazy_inline from a keyword only, and a CPU cannot run the call
        # that lazy inline leaves in data-parallel mode.
        super().__init__(config=config)
        if config.head_init_std and not config.checkpoint_name_or_path:  # else its weights are loaded by now
            head = self.lm_head.weight
            head.set_data(initializer(Normal(config.head_init_std), head.shape, head.dtype))
        if config.packed:
            self.model.casual_mask = PackedCausalMask(config.seq_length, config.bos_token_id,
                                                      config.pad_token_id, config.compute_dtype,
                                                      config.use_flash_attention)
        self.labels_per_row = min(config.labels_per_row, config.seq_length)
        # Earlier positions rank higher; all numbers are whole and exact in float32.
        self.ranking = Tensor(np.arange(config.seq_length, 0, -1)[None], dtype.float32)

    def construct(self, input_ids: Tensor, labels: Tensor | None = None, **inputs: Any) -> Any:
        """The loss in training, else MindFormers' outputs."""
        # Further inputs, such as a loss_mask, change what a position weighs.
        if self.training and self.labels_per_row > 0 and labels is not None and len(inputs) == 0:
            return self._loss_at_labels(input_ids[:, :-1], labels[:, 1:])
        return self.llama_construct(input_ids, labels, **inputs)

    def _loss_at_labels(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the labels, from hidden states at label positions alone.

        Args:
            tokens: (batch, seq) ids.
            labels: (batch, seq), the token after each, or ignore_token_id.

        Returns:
            The scalar that the full head gives: positions without a label, and those whose token is the
            padding's, carry no weight there either.
        """
        batch, length = tokens.shape
        supervised = ops.cast(ops.logical_and(ops.not_equal(labels, self.ignore_token_id),
                                              ops.not_equal(tokens, self.pad_token_id)), dtype.float32)
        weights, places = ops.TopK()(supervised * self.ranking, self.labels_per_row)
        rows = ops.expand_dims(ops.arange(0, batch), 1) * length
        places = ops.reshape(ops.cast(places, dtype.int32) + ops.cast(rows, dtype.int32), (-1,))
        hidden = self.model(tokens)
        hidden = ops.gather(ops.reshape(hidden, (-1, hidden.shape[-1])), places, 0)
        logits = ops.cast(self.lm_head(hidden), dtype.float32)
        mask = ops.cast(ops.reshape(weights, (-1,)) > 0, dtype.float32)
        return self.loss(logits, ops.gather(ops.reshape(labels, (-1,)), places, 0), mask)


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class InternLMForCausalLM(_InternLMForCausalLM):
    """InternLM with a language-model head."""

    config_class = InternLMConfig


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class InternLM2ForCausalLM(_InternLMForCausalLM):
    """InternLM2 with a language-model head."""

    config_class = InternLM2Config


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class InternLM3ForCausalLM(_InternLMForCausalLM):
    """InternLM3 with a language-model head."""

    config_class = InternLM3Config
