"""Statistics of keys and values for a key-value cache in 8 bits (weights.py calibrate).

Per layer they become the files that LMDeploy 0.1 to 0.3 reads; per head they tell how unlike the heads are,
which is why LMDeploy since 0.4 rounds each token and head by itself and needs no statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research_internlm.inference.kv_quantization import LayerScales
from research_internlm.quantisation.calibration import read_sequences
from research_internlm.quantisation.output import KV_STATISTICS, output_folder
from research_internlm.quantisation.source import Source, layer_name
from research_internlm.quantisation.stages import Stages
from research_internlm.shared import schema
from research_internlm.shared.files import require_file, sha256_of, write_json, write_manifest
from research_internlm.shared.schema import Count

BITS = 8
NOTE = ("LMDeploy 0.1 to 0.3 reads the .weight files with quant_policy = 4, which meant 8 bits there; since "
         "0.4 quant_policy 8 means 8 bits, 4 means 4 bits, and no statistics are read")


@dataclass(frozen=True)
class Range:
    """Over the tokens and a part of the channels.

    Attributes:
        min, max, absmax: Smallest and largest value, and largest magnitude.
    """

    min: float
    max: float
    absmax: float


@dataclass(frozen=True)
class LayerStatistics:
    """Of one layer.

    Attributes:
        k_scale, k_zp, v_scale, v_zp: As LayerScales'.
        key_heads, value_heads: Of each key-value head.
    """

    k_scale: float
    k_zp: float
    v_scale: float
    v_zp: float
    key_heads: list[Range]
    value_heads: list[Range]


@dataclass(frozen=True)
class KvStatistics:
    """kv_cache.json.

    Attributes:
        bits: Of a number in the cache.
        tokens: Of the calibration.
        note: Which edition of LMDeploy reads what.
        layers: Of each layer.
    """

    bits: Count
    tokens: Count
    note: str
    layers: list[LayerStatistics] = field(default_factory=list)


class _Seen:
    """Range of each channel, (kv_heads, head_dim), over all tokens so far."""

    def __init__(self) -> None:
        self.low: np.ndarray | None = None
        self.high: np.ndarray | None = None

    def see(self, block: np.ndarray) -> None:
        """Takes (sequences, kv_heads, length, head_dim)."""
        low, high = block.min((0, 2)), block.max((0, 2))
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def heads(self) -> list[Range]:
        """Of each head."""
        return [Range(float(low.min()), float(high.max()), float(max(-low.min(), high.max())))
                for low, high in zip(self.low, self.high, strict=True)]

    def scale_and_zero(self) -> tuple[float, float]:
        """Of the layer, asymmetric: (max - min) / (2^bits - 1) and (max + min) / 2."""
        low, high = np.float32(self.low.min()), np.float32(self.high.max())
        return float((high - low) / np.float32(2 ** BITS - 1)), float((high + low) / np.float32(2))


def calibrate(source: Source, output: Path, calibration: Path, samples: int, length: int, overwrite: bool
              ) -> dict[str, Any]:
    """Writes kv_cache.json and, for each layer, `layers.N.past_kv_scale.0.weight`.

    Such a file is four float32 without a header: k_scale, k_zp, v_scale, v_zp (lmdeploy v0.2.1,
    lite/apis/kv_qparams.py, for one card). A killed command goes on where it was.

    Args:
        source: The model.
        output: Folder to make.
        calibration: Items or a text.
        samples: Most sequences of it.
        length: Tokens of each.
        overwrite: Replace an existing folder.

    Returns:
        The facts written into the manifest.

    Raises:
        ToolkitError: Model, calibration and output do not fit together.
    """
    require_file(calibration, "--calibration")
    codec = source.codec()
    settings = {"calibration": calibration.name, "calibration_sha256": sha256_of(calibration),
                "samples": samples, "length": length}
    with output_folder(output, overwrite, source.inputs) as results:
        stages = Stages(output, {"tool": "calibrate", **settings, "model": source.state()})
        ids, counts = read_sequences(calibration, codec, samples, length)
        layers = _layers(source, stages, ids)
        folder = results.folder / output.name
        folder.mkdir()
        for number, layer in enumerate(layers):
            (folder / f"layers.{number}.past_kv_scale.0.weight").write_bytes(np.array(
                [layer.k_scale, layer.k_zp, layer.v_scale, layer.v_zp], "<f4").tobytes())
        write_json(folder / KV_STATISTICS, schema.to_json(
            KvStatistics(BITS, counts["tokens_used"], NOTE, layers)))
        facts = {"tool": "weights.py calibrate", "inputs": source.digests(), **settings, **counts,
                 "layers": len(layers),
                 "counts": {"in": 2 * len(layers), "out": 2 * len(layers), "dropped": {}}}
        write_manifest(folder / KV_STATISTICS, **facts)
        results.publish(output.name)
        stages.remove()
    return facts


def _layers(source: Source, stages: Stages, ids: np.ndarray) -> list[LayerStatistics]:
    count = source.model_config["num_layers"]
    done = stages.layers_done(count, ".json")
    with source.open(stages.folder) as weights:
        stages.keep_first_hidden(lambda: weights.embed(ids), done)
        if done < count:
            from research_internlm.quantisation.layer_network import LayerNetwork

            network = LayerNetwork(source.model_config, ids.shape[1])
        for layer in tqdm(range(done, count), "keys and values", count, unit="layer", initial=done):
            network.load(lambda name, layer=layer: weights.read(layer_name(layer, name)))
            _see(network, stages, layer)
            stages.drop_hidden(layer)
    return [schema.read(stages.layer(layer, ".json"), LayerStatistics, "the stage") for layer in range(count)]


def _see(network: Any, stages: Stages, layer: int) -> None:
    """Runs a layer over the calibration and keeps its outputs and its statistics."""
    keys, values = _Seen(), _Seen()

    def outputs() -> Iterator[np.ndarray]:
        for output, observed in network.run(stages.hidden(layer)):
            keys.see(observed["keys"])
            values.see(observed["values"])
            yield output

    stages.write_hidden(layer + 1, stages.hidden(layer), outputs())
    found = schema.to_json(_statistics(keys, values))
    stages.publish(stages.layer(layer, ".json"), lambda new: write_json(new, found))


def _statistics(keys: _Seen, values: _Seen) -> LayerStatistics:
    return LayerStatistics(*keys.scale_and_zero(), *values.scale_and_zero(), keys.heads(), values.heads())


def read_layer_scales(folder: Path) -> Sequence[LayerScales]:
    """The scales of a folder of `calibrate`.

    Raises:
        ToolkitError: Missing or not of that form.
    """
    found = schema.read(folder / KV_STATISTICS, KvStatistics, "the statistics of the cache",
                        "weights.py calibrate makes them")
    return [LayerScales(layer.k_scale, layer.k_zp, layer.v_scale, layer.v_zp) for layer in found.layers]
