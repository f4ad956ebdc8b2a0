"""Which weights a chat or a server uses: checkpoint, adapter over a base, or a Hugging Face folder."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm import recipes
from research_internlm.checkpoints import hf_config
from research_internlm.checkpoints.hf_import import import_model
from research_internlm.checkpoints.merging import merge
from research_internlm.inference.engine import Engine
from research_internlm.inference.predict_recipe import predict_recipe
from research_internlm.inference.text_codec import TextCodec
from research_internlm.quantisation.loading import dequantize, is_quantized
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, require_file

_TOKENIZER = "tokenizer.model"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        config: Predict recipe; of a Hugging Face folder, config.json replaces what it says of the shape.
        checkpoint: Base or merged weights, a full LoRA checkpoint, or a Hugging Face folder, whose weights
            may be quantised.
        model_file: tokenizer.model; None looks beside the checkpoint, or into the folder.
        adapter: LoRA checkpoint of a run of the toolkit, to lay over the checkpoint; None for none.
        overlays, overrides, device_target: As for `predict_recipe`.
    """

    config: str
    checkpoint: str
    model_file: str | None = None
    adapter: str | None = None
    overlays: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    device_target: str | None = None

    @property
    def is_hf_folder(self) -> bool:
        """Whether the weights are a Hugging Face folder."""
        return Path(self.checkpoint).is_dir()

    def recipe(self) -> recipes.Recipe:
        """The checked recipe of the model.

        Raises:
            ToolkitError: A file is missing, a key is wrong, or the folder holds another family.
        """
        recipe = predict_recipe(self.config, self.overlays, self.overrides, self.device_target)
        if self.is_hf_folder:
            found = read_json(Path(self.checkpoint) / "config.json", "the model's config",
                              "give a checkpoint file, or the folder of a Hugging Face release or export")
            shape = hf_config.to_model_config(found)
            recipes.model_config(recipe).update(shape)
            recipe["model"]["arch"] = {"type": shape["type"].replace("Config", "ForCausalLM")}
        return recipe

    def codec(self, recipe: recipes.Recipe) -> TextCodec:
        """The tokenizer of the weights.

        Raises:
            ToolkitError: None was given and none lies beside the weights, or it is another model's.
        """
        path = self.model_file
        if path is None:
            folder = Path(self.checkpoint) if self.is_hf_folder else Path(self.checkpoint).parent
            path = require_file(folder / _TOKENIZER, "the tokenizer", "give it with --model_file")
        return TextCodec(path, recipes.model_config(recipe)["vocab_size"])

    @contextlib.contextmanager
    def weights(self) -> Iterator[Path]:
        """The file that an engine loads, for as long as it loads.

        What has to be converted or merged first is written into a temporary folder (TMPDIR decides where),
        which takes the size of the weights and is removed afterwards.

        Raises:
            ToolkitError: Files are missing, or do not belong together.
        """
        with contextlib.ExitStack() as stack:
            path = Path(self.checkpoint)
            if self.is_hf_folder or self.adapter:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="internlm_weights_")))
                _say(f"writing the weights to load into {folder}, to be removed after loading"
                     + ("; to keep them, use weights.py from-hf" if self.is_hf_folder else ""))
            if self.is_hf_folder:
                path = folder / "base.safetensors"
                if is_quantized(Path(self.checkpoint)):
                    _say(f"{self.checkpoint} holds quantised weights: they are dequantised to float16 for "
                         "loading, so the model takes the memory of the 16-bit one")
                    dequantize(Path(self.checkpoint), path)
                else:
                    import_model(Path(self.checkpoint), path, None, overwrite=False)
            if self.adapter:
                merged = folder / "merged.safetensors"
                merge(path, require_file(self.adapter, "--adapter"), merged, overwrite=False)
                path = merged
            yield require_file(path, "--load_checkpoint")


@contextlib.contextmanager
def opened(source: ModelSource) -> Iterator[tuple[Engine, TextCodec]]:
    """An engine and its tokenizer; whoever opens it has the network loaded before the block ends.

    Raises:
        ToolkitError: Recipe, weights and tokenizer are missing, wrong or do not fit together.
    """
    recipe = source.recipe()
    if not source.is_hf_folder:
        require_file(source.checkpoint, "--load_checkpoint")
    codec = source.codec(recipe)
    with source.weights() as path:
        yield Engine(recipe, path, codec.special.stop_ids), codec


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which model, for a command."""
    parser.add_argument("--config", required=True, help="predict recipe, e.g. yaml/predict_mmlu.yaml; any "
                        "key can follow as key.path=value")
    parser.add_argument("--overlay", action="append", default=[], metavar="YAML",
                        help="yaml laid over the recipe (repeatable)")
    parser.add_argument("--load_checkpoint", required=True, metavar="P", help="base, merged or full LoRA "
                        "checkpoint, or a Hugging Face folder, also of weights.py quantize, which is "
                        "converted at every start")
    parser.add_argument("--model_file", metavar="F", help="tokenizer.model of the weights (default: the one "
                        "beside them)")
    parser.add_argument("--device_target", choices=("CPU", "Ascend"),
                        help="default: the recipe's context.device_target")


def source_of(arguments: argparse.Namespace, adapter: str | None = None) -> ModelSource:
    """The model that a command line names."""
    return ModelSource(arguments.config, arguments.load_checkpoint, arguments.model_file, adapter,
                       tuple(arguments.overlay), tuple(arguments.overrides), arguments.device_target)


def adapters_of(options: Sequence[str], base: str) -> dict[str, str]:
    """The adapters of `--adapter NAME=P` options by name.

    Raises:
        ToolkitError: An option is not of that form, or a name is there twice.
    """
    found: dict[str, str] = {}
    for option in options:
        name, _, path = option.partition("=")
        if not name or not path:
            raise ToolkitError(f"--adapter {option} is not of the form NAME=CHECKPOINT")
        if name in found or name == base:
            raise ToolkitError(f"two models have the name {name!r}: choose another (--name, --adapter)")
        found[name] = path
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
