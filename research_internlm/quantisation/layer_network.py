"""One decoder layer of the toolkit's network, whose weights are exchanged layer by layer.

So a model of any depth runs in the memory of one layer, and shows what its linear layers are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from mindspore import PYNATIVE_MODE, Tensor, nn, set_context

from research_internlm.checkpoints.model_match import computed_by
from research_internlm.inference.plain_layer import PlainLayer, Triple, causal_mask, rotary_angles
from research_internlm.model import cpu_patches, shape
from research_internlm.recipes.for_mindformers import set_scratch_log_folder

_TOKENS = 2048  # computed together
_LAYER = "model.layers.0."
# What a CPU computes with; everything else of the shape is the model's.
_ON_CPU = {
    "num_layers": 1, "vocab_size": 8, "batch_size": 1, "use_past": False, "use_flash_attention": False,
    "use_rope_slice": True, "fused_rms_norm": False, "is_dynamic": False, "compute_dtype": "float32",
    "param_init_type": "float32", "layernorm_compute_type": "float32", "softmax_compute_type": "float32",
    "rotary_dtype": "float32",
}
INPUTS = ("qkv", "wo", "gate_up", "w2")  # of linear layers, by what they feed


class _SeenLayer(PlainLayer):
    """(batch, length, hidden) -> the layer's output, its linear inputs, and keys and values as cached."""

    def construct(self, x: Tensor, cosines: Tensor, sines: Tensor, swap: Tensor) -> tuple[Tensor, ...]:
        """Returns output, inputs in INPUTS' order, keys and values (batch, kv_heads, length, head_dim)."""
        length = x.shape[1]
        freqs: Triple = rotary_angles(cosines, sines, swap, length)
        normed = self.layer.attention_norm(x)
        query, key, value = self.project(normed, freqs)
        context = self.attend(query, key, value, causal_mask(length, self.compute_type))
        hidden = x + self.attention.wo(context)
        normed_again = self.layer.ffn_norm(hidden)
        feed_forward = self.layer.feed_forward
        gated = feed_forward.w3(normed_again) * feed_forward.w1(normed_again)  # w1 has the activation in it
        return hidden + feed_forward.w2(gated), normed, context, normed_again, gated, key, value


class LayerNetwork:
    """Runs one layer after the other.

    Args:
        model_config: A recipe's `model.model_config`; its shape is used, in float32 on the CPU.
        length: Tokens of a sequence.
    """

    def __init__(self, model_config: Mapping[str, Any], length: int) -> None:
        set_scratch_log_folder()
        cpu_patches.adapt("CPU")
        from research_internlm.model.config import InternLMConfig
        from research_internlm.model.modeling import InternLMForCausalLM

        set_context(mode=PYNATIVE_MODE, device_target="CPU")  # a layer runs a few times: no use to compile it
        network = InternLMForCausalLM(InternLMConfig(
            **{**computed_by(model_config), **_ON_CPU}, seq_length=length,
            attn_proj_has_bias=shape.has_bias(model_config, "attn_proj_has_bias")))
        self._parameters = {parameter.name.removeprefix(_LAYER): parameter
                            for parameter in network.get_parameters() if parameter.name.startswith(_LAYER)}
        self._layer: nn.Cell = _SeenLayer(network.model.layers[0]).set_train(False)
        angles = network.model.freqs_mgr
        self._angles = (angles.freqs_cos, angles.freqs_sin, angles.swap_mask)
        self._rows = max(_TOKENS // length, 1)

    def load(self, read: Callable[[str], np.ndarray]) -> None:
        """Takes the weights of another layer.

        Args:
            read: Gives a parameter as float32 by its name within the layer, e.g. `attention.wq.weight`.
        """
        for name, parameter in self._parameters.items():
            parameter.set_data(Tensor(read(name)))

    def run(self, hidden: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Computes the layer.

        Args:
            hidden: Its inputs, float32 (sequences, length, hidden).

        Yields:
            For some sequences at a time the layer's output, and what was seen: the inputs of INPUTS
            (sequences, length, in), and `keys` and `values` (sequences, kv_heads, length, head_dim), keys
            rotated.
        """
        for start in range(0, len(hidden), self._rows):
            block = Tensor(np.ascontiguousarray(hidden[start:start + self._rows]))
            output, *seen = (part.asnumpy() for part in self._layer(block, *self._angles))
            yield output, dict(zip((*INPUTS, "keys", "values"), seen, strict=True))
