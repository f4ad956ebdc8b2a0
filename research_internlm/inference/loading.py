"""Reading MindSpore checkpoints for inference: only the weights, an adapter merged in on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore
from mindspore import nn

from research_internlm.checkpoints.weight_names import is_training_state
from research_internlm.model import lora
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file


def read_weights(path: str | Path) -> dict[str, mindspore.Parameter]:
    """Loads the model's parameters from a .ckpt or .safetensors file, without optimizer state.

    Raises:
        ToolkitError: The file is missing, a folder, truncated, or holds no weights.
    """
    path = require_file(path, "the checkpoint", "a training run leaves them in OUTPUT_DIR/checkpoint/rank_0")
    kind = "safetensors" if path.suffix == ".safetensors" else "ckpt"
    try:
        return mindspore.load_checkpoint(
            str(path), format=kind, choice_func=lambda name: not is_training_state(name))
    except (ValueError, RuntimeError, OSError) as error:
        raise ToolkitError(f"{path} cannot be read as a {kind} checkpoint (truncated, or another format): "
                           f"{str(error).splitlines()[0]}") from error


def merge_adapter(parameters: dict[str, mindspore.Parameter], pet_config: Mapping[str, Any] | None
                  ) -> dict[str, mindspore.Parameter]:
    """Folds LoRA matrices found among the parameters into their weights.

    Args:
        parameters: Names and values of one checkpoint; changed in place.
        pet_config: The recipe's `pet_config`, which knows the scaling.

    Returns:
        The same mapping without LoRA matrices.

    Raises:
        ToolkitError: There is an adapter but the config has no `pet_config` to say its scaling.
    """
    weights = [name for name in parameters if lora.adapter_names(name)[0] in parameters]
    if weights and not pet_config:
        raise ToolkitError("the checkpoint holds a LoRA adapter but the config has no "
                           "model_config.pet_config that tells its scaling; use the config of the training "
                           "run, or merge first")
    for name in weights:
        a, b = (parameters.pop(adapter).asnumpy() for adapter in lora.adapter_names(name))
        merged = lora.merge_weight(parameters[name].asnumpy(), a, b, lora.scaling(pet_config))
        parameters[name] = mindspore.Parameter(mindspore.Tensor(merged), name=name)
    return parameters


def load_into(network: nn.Cell, path: str | Path, pet_config: Mapping[str, Any] | None) -> None:
    """Loads a checkpoint (base, merged, or base with adapter) into a plain network.

    Raises:
        ToolkitError: Parameters are missing, unknown, or of another shape; a few are named.
    """
    parameters = merge_adapter(read_weights(path), pet_config)
    wanted = {parameter.name: parameter for parameter in network.get_parameters()}
    missing = [name for name in wanted if name not in parameters and "key_cache" not in name
               and "value_cache" not in name]
    shapes = [f"{name} is {tuple(parameters[name].shape)}, the model has {tuple(wanted[name].shape)}"
              for name in wanted if name in parameters and parameters[name].shape != wanted[name].shape]
    if missing or shapes:
        raise ToolkitError(
            f"{path} does not fit the model of the config: {len(missing)} parameters missing "
            f"({', '.join(missing[:3])}), {len(shapes)} of another shape ({'; '.join(shapes[:3])}); "
            "use the config the weights were trained with")
    mindspore.load_param_into_net(network, {name: value for name, value in parameters.items()
                                            if name in wanted})
