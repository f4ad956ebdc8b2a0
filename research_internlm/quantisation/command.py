"""The sub-commands of weights.py that quantise: their options, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from research_internlm.quantisation import kv_statistics
from research_internlm.quantisation.awq_format import BITS
from research_internlm.quantisation.formats import FORMATS
from research_internlm.quantisation.quantize import METHODS, Request, quantize_model
from research_internlm.quantisation.source import Source, source_of
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError

Add = Callable[[str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Adds the sub-commands; `add` makes one of a name and a description."""
    _add_quantize(add)
    command = add("calibrate", "statistics of keys and values for a key-value cache of 8 bits, per layer "
                  "(the files of LMDeploy 0.1 to 0.3) and per head")
    _add_model_options(command)
    command.add_argument("--calibration", type=Path, required=True, metavar="F", help="items (.json, .jsonl) "
                         "or a text, best the training data")


def _add_quantize(add: Add) -> None:
    command = add("quantize", "weights in 4 bits (AWQ's GEMM form, as a Llama folder) or 8, a layer in "
                  "memory at a time; the same command goes on after a kill")
    _add_model_options(command)
    command.add_argument("--calibration", type=Path, metavar="F", help="items (.json, .jsonl) or a text, "
                         "best the training data; for --method awq")
    command.add_argument("--method", choices=METHODS, default=METHODS[0], help="awq: scale channels so that "
                         "rounding hurts least; rtn: round to nearest (default: %(default)s)")
    command.add_argument("--format", choices=FORMATS, default=next(iter(FORMATS)), help="awq: for LMDeploy, "
                         "vLLM and transformers; modelslim: W8A16 for vllm-ascend; mindspore: for "
                         "MindFormers' Llama on Ascend, never run (default: %(default)s)")
    command.add_argument("--bits", type=int, choices=(BITS, 8), help="of a weight (default: the format's)")
    command.add_argument("--group_size", type=whole(8), default=128, metavar="N", help="inputs that share a "
                         "scale, with 4 bits (default: %(default)s)")


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, required=True, metavar="P", help="base or merged checkpoint, "
                         "or a Hugging Face folder")
    command.add_argument("--config", metavar="YAML", help="the recipe or resolved_config.yaml of a "
                         "checkpoint; any key can follow as key.path=value")
    command.add_argument("--overlay", action="append", default=[], metavar="YAML", help="yaml laid over the "
                         "config (repeatable)")
    command.add_argument("--model_file", type=Path, metavar="F", help="tokenizer.model (default: the one in "
                         "the folder)")
    command.add_argument("--samples", type=whole(1), default=128, metavar="N", help="most sequences of the "
                         "calibration (default: %(default)s)")
    command.add_argument("--length", type=whole(2), default=512, metavar="N", help="tokens of each (default: "
                         "%(default)s)")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")


def _source(arguments: argparse.Namespace) -> Source:
    return source_of(arguments.model, arguments.config, arguments.overlay, arguments.overrides,
                     arguments.model_file)


def quantize(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Runs `quantize`.

    Raises:
        ToolkitError: As quantize_model, or the bits are not the format's.
    """
    layout = FORMATS[arguments.format]
    if arguments.bits not in (None, layout.bits):
        raise ToolkitError(f"--format {arguments.format} has {layout.bits} bits a weight, but --bits asks "
                           f"for {arguments.bits}: leave --bits out, or take another --format")
    facts = quantize_model(_source(arguments), arguments.output, Request(
        arguments.format, arguments.method, arguments.group_size, arguments.calibration, arguments.samples,
        arguments.length), arguments.overwrite)
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{facts['bits']} bits, {facts['method']}: {facts['bytes_before']:,} bytes of weights, {size:,} in "
          f"{arguments.output}")
    for line in _errors(facts):
        print(line)
    if "note" in facts:
        print(f"note: {facts['note']}")
    return facts


def _errors(facts: Mapping[str, Any]) -> list[str]:
    """What the search gained, over all layers."""
    found = [choice for layer in facts["layers"] for choice in layer.values()]
    if not found:
        return []
    gains = sorted(choice["error"] / choice["plain_error"] for choice in found if choice["plain_error"])
    scaled = sum(choice["ratio"] is not None for choice in found)
    return [f"{scaled} of {len(found)} inputs scaled; squared error of their outputs against plain rounding: "
            f"median {gains[len(gains) // 2]:.2f}, from {gains[0]:.2f} to {gains[-1]:.2f}"] if gains else []


def calibrate(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Runs `calibrate`."""
    facts = kv_statistics.calibrate(_source(arguments), arguments.output, arguments.calibration,
                                    arguments.samples, arguments.length, arguments.overwrite)
    print(f"keys and values of {facts['layers']} layers over {facts['tokens_used']:,} tokens, for "
          f"{kv_statistics.BITS} bits; {kv_statistics.NOTE}")
    return facts


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Mapping[str, Any]]] = MappingProxyType({
    "quantize": quantize, "calibrate": calibrate})
