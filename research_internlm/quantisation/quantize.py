"""Quantises a model layer by layer (weights.py quantize).

Memory: one layer in float32 for the network, the largest pair of its linear layers for numpy, and the
activations of 2,048 tokens, whatever the depth; hidden states lie on the disk between layers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research_internlm.checkpoints import weight_names
from research_internlm.quantisation.awq_format import BITS, GROUP_ARRAYS, PER_WORD
from research_internlm.quantisation.calibration import read_sequences
from research_internlm.quantisation.export import write_output
from research_internlm.quantisation.formats import FORMATS
from research_internlm.quantisation.layer_quantizer import (
    SEARCH_TOKENS,
    Inputs,
    QuantizedLayer,
    quantize_layer,
)
from research_internlm.quantisation.output import output_folder
from research_internlm.quantisation.source import Source, Weights, layer_name, linear_cells
from research_internlm.quantisation.stages import Stages
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file, sha256_of, write_json

AWQ, RTN = METHODS = ("awq", "rtn")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        file_format: A key of FORMATS.
        method: AWQ or RTN.
        group_size: Columns that share a scale.
        calibration: The user's file; None for RTN.
        samples: Most sequences of it.
        length: Tokens of each.
    """

    file_format: str
    method: str
    group_size: int
    calibration: Path | None
    samples: int
    length: int

    def settings(self) -> dict[str, Any]:
        """As a manifest states it."""
        stated = {"method": self.method, "bits": FORMATS[self.file_format].bits}
        if self.bits_in_groups:
            stated["group_size"] = self.group_size
        if self.calibration:
            stated |= {"calibration": self.calibration.name,
                       "calibration_sha256": sha256_of(self.calibration),
                       "samples": self.samples, "length": self.length}
        return stated

    @property
    def bits_in_groups(self) -> bool:
        """Whether columns are grouped; otherwise a row has one scale."""
        return FORMATS[self.file_format].bits == BITS


def quantize_model(source: Source, output: Path, request: Request, overwrite: bool) -> dict[str, Any]:
    """Writes a folder of quantised weights; a command that was killed goes on where it was.

    Args:
        source: The model.
        output: Folder to make.
        request: How.
        overwrite: Replace an existing folder of quantised weights.

    Returns:
        The facts written into the manifest.

    Raises:
        ToolkitError: Model, calibration, request and output do not fit together.
    """
    _check(source, request)
    with output_folder(output, overwrite, source.inputs) as results:
        stages = Stages(output, {**request.settings(), "format": request.file_format,
                                 "model": source.state()})
        with source.open(stages.folder) as weights:
            calibration = _layers(source, weights, request, stages) if request.bits_in_groups else {}
            facts = {"tool": "weights.py quantize", "inputs": source.digests(), **request.settings(),
                     **calibration}
            facts = write_output(FORMATS[request.file_format], source, weights, stages,
                                 results.folder / output.name, facts, request.group_size)
        results.publish(output.name)
        stages.remove()
    return facts


def _check(source: Source, request: Request) -> None:
    """Raises a ToolkitError where the request cannot be met, before anything is written."""
    layout = FORMATS[request.file_format]
    if request.method == AWQ and layout.bits != BITS:
        raise ToolkitError(f"--format {request.file_format} has {layout.bits} bits a weight and a scale a "
                           "row, which AWQ does not search for: add --method rtn")
    if (request.calibration is None) == (request.method == AWQ):
        raise ToolkitError("--method awq needs --calibration F, a file of items or a text"
                           if request.method == AWQ
                           else "--method rtn looks at no data: leave --calibration out")
    if request.calibration:
        require_file(request.calibration, "--calibration")
        source.codec()
    if not request.bits_in_groups:
        return
    wrong = [f"{cell} is {linear.out_channels} x {linear.in_channels}"
             for cell, linear in linear_cells(source.model_config)
             if linear.in_channels % request.group_size or linear.out_channels % PER_WORD]
    if wrong:
        raise ToolkitError(f"--group_size {request.group_size} must divide the inputs of every linear layer, "
                           f"and {PER_WORD} the outputs: {'; '.join(wrong)}")


def _layers(source: Source, weights: Weights, request: Request, stages: Stages) -> dict[str, int]:
    """Makes what is missing of the layers' stages; returns the counts of the calibration."""
    count = source.model_config["num_layers"]
    done = stages.layers_done(count, ".npz")
    facts, network = {}, None
    if request.method == AWQ:
        ids, facts = read_sequences(request.calibration, source.codec(), request.samples, request.length)
        stages.keep_first_hidden(lambda: weights.embed(ids), done)
        if done < count:
            from research_internlm.quantisation.layer_network import LayerNetwork

            network = LayerNetwork(source.model_config, ids.shape[1])
    first = layer_name(0, "")
    names = [name.removeprefix(first) for name in weight_names.parameter_shapes(source.model_config)
             if name.startswith(first)]
    for layer in tqdm(range(done, count), desc=request.method, unit="layer", initial=done, total=count):
        def read(name: str, layer: int = layer) -> np.ndarray:
            return weights.read(layer_name(layer, name))

        inputs = None
        if network is not None:
            network.load(read)
            inputs = _see(network, stages, layer, layer + 1 == count)
        made = quantize_layer(read, names, request.group_size, inputs)
        _keep(stages, layer, made)
        stages.drop_hidden(layer)
    return facts


def _see(network: Any, stages: Stages, layer: int, is_last: bool) -> dict[str, Inputs]:
    """Runs a layer over the calibration, keeps its outputs, and returns what its linear layers were given."""
    from research_internlm.quantisation.layer_network import INPUTS

    hidden = stages.hidden(layer)
    seen = {name: Inputs() for name in INPUTS}
    share = min(SEARCH_TOKENS / (hidden.shape[0] * hidden.shape[1]), 1.0)

    def outputs() -> Iterator[np.ndarray]:
        for output, observed in network.run(hidden):
            for name, inputs in seen.items():
                inputs.see(observed[name], share)
            yield output

    if is_last:
        deque(outputs(), maxlen=0)  # what they would be given to is the head
    else:
        stages.write_hidden(layer + 1, hidden, outputs())
    return seen


def _keep(stages: Stages, layer: int, made: QuantizedLayer) -> None:
    arrays = {f"{cell}.{kind}": getattr(groups, kind) for cell, groups in made.groups.items()
              for kind in GROUP_ARRAYS}
    write_json(stages.layer(layer, ".json"), made.report())

    def write(new: Path) -> None:
        with open(new, "wb") as file:
            np.savez(file, **arrays, **made.plain)

    stages.publish(stages.layer(layer, ".npz"), write)
