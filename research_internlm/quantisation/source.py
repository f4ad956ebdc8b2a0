"""The model that is quantised: a checkpoint with its recipe, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.checkpoints import dtypes, weight_names
from research_internlm.checkpoints.hf_config import to_model_config
from research_internlm.checkpoints.hf_export import export_settings
from research_internlm.checkpoints.hf_folder import shards_of
from research_internlm.checkpoints.hf_import import import_model
from research_internlm.checkpoints.model_match import require_weights
from research_internlm.checkpoints.tensor_files import TensorFile
from research_internlm.inference.text_codec import TextCodec
from research_internlm.model.shape import Linear, layer_linears
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, require_file, sha256_of

_TOKENIZER = "tokenizer.model"
_CONVERTED = "model.safetensors"


def layer_name(layer: int, cell: str) -> str:
    """MindFormers' name of something in a layer."""
    return f"model.layers.{layer}.{cell}"


def linear_cells(model_config: Mapping[str, Any]) -> Iterator[tuple[str, Linear]]:
    """The linear cells of a layer by their names within it, e.g. `attention.wq`."""
    names = {name.split(".")[-2]: ".".join(name.split(".")[3:-1])
             for name in weight_names.parameter_shapes({**model_config, "num_layers": 1})
             if name.startswith("model.layers.")}
    yield from ((names[linear.name], linear) for linear in layer_linears(model_config))


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    Attributes:
        model: Checkpoint file or Hugging Face folder.
        model_config: Its shape, a recipe's `model.model_config`.
        model_file: tokenizer.model; None where none was given and none lies in the folder.
    """

    model: Path
    model_config: Mapping[str, Any]
    model_file: Path | None

    @property
    def inputs(self) -> list[Path]:
        """The files of the weights."""
        return [self.model / "config.json", *shards_of(self.model)] if self.model.is_dir() else [self.model]

    def state(self) -> dict[str, Any]:
        """What tells these files from others, without reading them whole."""
        return {path.name: [path.stat().st_size, path.stat().st_mtime_ns]
                for path in (*self.inputs, *([self.model_file] if self.model_file else []))}

    def digests(self) -> dict[str, str]:
        """The files' sha256 by name."""
        return {path.name: sha256_of(path) for path in self.inputs}

    def codec(self) -> TextCodec:
        """The tokenizer.

        Raises:
            ToolkitError: There is none, or it is another model's.
        """
        if self.model_file is None:
            raise ToolkitError("calibration needs the tokenizer: give it with --model_file tokenizer.model")
        return TextCodec(self.model_file, self.model_config["vocab_size"])

    def open(self, work: Path) -> Weights:
        """The weights under MindFormers' names; a Hugging Face folder is converted into `work` first."""
        path = self.model
        if path.is_dir():
            path = work / _CONVERTED
            if not path.exists():  # complete or absent
                import_model(self.model, path, None, overwrite=False)
        return Weights(path)


def source_of(model: Path, config: str | None, overlays: Sequence[str], overrides: Sequence[str],
              model_file: Path | None) -> Source:
    """Checks what a command line names.

    Raises:
        ToolkitError: Files are missing or do not fit together, an adapter is not merged, or --config is
            missing for a checkpoint or given for a folder.
    """
    if model.is_dir():
        if config or overlays or overrides:
            raise ToolkitError(f"--model {model} is a folder, whose config.json says what it is: leave "
                               "--config, --overlay and key.path=value out")
        model_config = to_model_config(read_json(model / "config.json", "the model's config",
                                                 "give a checkpoint file or a Hugging Face folder"))
        shards_of(model)
        beside = model / _TOKENIZER
        model_file = model_file or (beside if beside.exists() else None)
    else:
        require_file(model, "--model")
        if config is None:
            raise ToolkitError(f"--model {model} is a checkpoint: give the recipe or resolved_config.yaml of "
                               "its weights with --config")
        model_config = export_settings(config, overlays, overrides)
        require_weights(model, model_config, "--model")
        with TensorFile(model) as file:
            if any(map(weight_names.is_adapter, file.entries)):
                raise ToolkitError(f"--model {model} holds a LoRA adapter; fold it in first with weights.py "
                                   "merge")
    if model_file is not None:
        TextCodec(model_file, model_config["vocab_size"])
    return Source(model, model_config, model_file)


class Weights:
    """The weights in a checkpoint file, read as float32.

    Attributes:
        file: The file.
    """

    def __init__(self, path: Path) -> None:
        self.file = TensorFile(path, "--model")

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def read(self, name: str) -> np.ndarray:
        """A parameter by MindFormers' name."""
        return dtypes.to_float32(self.file.read(name))

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Embeddings of token ids (sequences, length), float32; only the rows that occur are read."""
        name = "model.tok_embeddings.embedding_weight"
        wanted, places = np.unique(ids, return_inverse=True)
        rows = np.concatenate([self.file.rows(name, row, row + 1) for row in wanted.tolist()])
        return dtypes.to_float32(rows)[places.reshape(ids.shape)]

    def training_state(self) -> list[str]:
        """Names of what is not a weight."""
        return [name for name in self.file.entries if weight_names.is_training_state(name)]
