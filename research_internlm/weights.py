"""Entry point: weights in and out. Convert, merge an adapter, to and from transformers and PEFT, quantise.

    python research_internlm/weights.py from-hf internlm-7b base.ckpt --dtype fp16
    python research_internlm/weights.py merge --base base.ckpt --adapter RUN/.../x.ckpt --output merged.ckpt
    python research_internlm/weights.py to-hf merged.ckpt hf --config yaml/lora_finetune.yaml --model_file F
    python research_internlm/weights.py to-peft RUN/.../x.ckpt adapter
    python research_internlm/weights.py from-peft xtuner_adapter adapter --base base.ckpt
    python research_internlm/weights.py quantize --model hf --calibration train.json --output hf_w4

Only calibration needs MindSpore, only pytorch_model*.bin needs torch. Every output has a manifest beside it.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.checkpoints.adapter_commands import add_adapter_commands
from research_internlm.checkpoints.dtypes import FLAG_TYPES
from research_internlm.checkpoints.hf_export import export_adapter, export_model, export_settings
from research_internlm.checkpoints.hf_import import describe_import, import_model
from research_internlm.checkpoints.merging import merge
from research_internlm.checkpoints.peft_import import import_adapter
from research_internlm.checkpoints.tensor_files import SUFFIXES
from research_internlm.quantisation import command as quantisation
from research_internlm.shared.errors import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_from_hf(commands)
    _add_to_hf(commands)
    add_adapter_commands(functools.partial(_command, commands))
    quantisation.add_commands(functools.partial(_command, commands))
    arguments = recipes.parse_command_line(parser, argv)
    if arguments.overrides and not hasattr(arguments, "config"):
        parser.error(f"unrecognized arguments: {' '.join(arguments.overrides)}")
    return arguments


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return command


def _add_from_hf(commands: Any) -> None:
    command = _command(commands, "from-hf", "Hugging Face InternLM, 2, 2.5 or 3 to one MindSpore checkpoint")
    command.add_argument("hf_dir", type=Path, metavar="HF_DIR", help="folder with config.json and "
                         "model*.safetensors or pytorch_model*.bin (.bin needs torch)")
    command.add_argument("output", type=Path, metavar="OUT", help="file to make: .ckpt or .safetensors, or "
                         "any name with --format")
    command.add_argument("--dtype", choices=FLAG_TYPES, help="type (default: each tensor's own)")
    command.add_argument("--format", choices=SUFFIXES, help="format of the result (default: by OUT's suffix)")


def _add_to_hf(commands: Any) -> None:
    command = _command(commands, "to-hf", "a MindSpore checkpoint to a folder that transformers loads as a "
                       "Llama, without remote code")
    command.add_argument("checkpoint", type=Path, metavar="CKPT", help="base or merged weights")
    command.add_argument("output", type=Path, metavar="OUT", help="folder to make")
    command.add_argument("--config", required=True, metavar="YAML", help="the recipe or resolved_config.yaml "
                         "of these weights; any key can follow as key.path=value")
    command.add_argument("--overlay", action="append", default=[], metavar="YAML", help="yaml laid over the "
                         "config (repeatable)")
    command.add_argument("--model_file", type=Path, metavar="F", help="tokenizer.model to put into OUT with "
                         "its settings (default: no tokenizer files)")


def _import(arguments: argparse.Namespace) -> Mapping[str, Any]:
    facts = import_model(arguments.hf_dir, arguments.output, arguments.dtype, arguments.overwrite,
                         arguments.format)
    print("\n".join(describe_import(facts, arguments.output, arguments.format)))
    return facts


def _merge(arguments: argparse.Namespace) -> Mapping[str, Any]:
    facts = merge(arguments.base, arguments.adapter, arguments.output, arguments.overwrite)
    print(f"{facts['counts']['changed']} weights changed, scaling {facts['scaling']}")
    return facts


def _export(arguments: argparse.Namespace) -> Mapping[str, Any]:
    model_config = export_settings(arguments.config, arguments.overlay, arguments.overrides)
    facts = export_model(arguments.checkpoint, arguments.output, model_config, arguments.model_file,
                         arguments.overwrite)
    if not arguments.model_file:
        print(f"note: no --model_file was given, so {arguments.output} has no tokenizer files, and "
              "generation stops at the plain end of text only")
    return facts


_COMMANDS = {
    "from-hf": _import, "to-hf": _export, "merge": _merge,
    "to-peft": lambda given: export_adapter(given.adapter, given.output, given.overwrite, given.base_model),
    "from-peft": lambda given: import_adapter(given.adapter, given.output, given.base, given.overwrite),
    **quantisation.COMMANDS}


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    counts = _COMMANDS[arguments.command](arguments)["counts"]
    dropped = ", ".join(f"{count} {kind}" for kind, count in counts["dropped"].items() if count)
    print(f"{counts['in']} tensors in, {counts['out']} out" + (f", left out: {dropped}" if dropped else "")
          + f" -> {arguments.output}")
    return 0


if __name__ == "__main__":
    run_main(main)
