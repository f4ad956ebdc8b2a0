"""One task with several weights and caches: what quantisation costs, in one table.

The same questions are asked of the weights as they are, of the quantised ones, with a quantised key-value
cache, and with both. The result lists every answer that changed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_internlm.checkpoints.tensor_files import TensorFile
from research_internlm.checkpoints.weight_names import is_training_state
from research_internlm.evaluation import runner
from research_internlm.evaluation.runner import EvaluatedModel, Outcome
from research_internlm.evaluation.task import Task
from research_internlm.inference.kv_quantization import KV_BITS, KvQuantization
from research_internlm.quantisation.kv_statistics import read_layer_scales
from research_internlm.quantisation.loading import dequantize
from research_internlm.shared.errors import ToolkitError

_FLOAT_BYTES = 2  # of a number in the cache of the models as they are deployed


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that ask for a comparison."""
    parser.add_argument("--quantized", type=Path, metavar="DIR", help="folder of weights.py quantize: the "
                        "task is asked of it too, dequantised while it is loaded")
    parser.add_argument("--kv_bits", type=int, choices=KV_BITS, help="ask with a key-value cache of so many "
                        "bits too (simulated; per token and head unless --kv_stats)")
    parser.add_argument("--kv_stats", type=Path, metavar="DIR", help="folder of weights.py calibrate: one "
                        "scale a layer instead, with --kv_bits 8")


@dataclass(frozen=True)
class Compared:
    """What is compared with the weights as they are.

    Attributes:
        quantized: Folder of quantised weights; None for none.
        kv: The cache's rounding; None for none.
    """

    quantized: Path | None
    kv: KvQuantization | None

    def __bool__(self) -> bool:
        return bool(self.quantized or self.kv)


def compared(arguments: argparse.Namespace) -> Compared:
    """Reads what the options ask for.

    Raises:
        ToolkitError: --kv_stats without --kv_bits 8, or not a folder of statistics.
    """
    layers = None
    if arguments.kv_stats:
        if arguments.kv_bits != 8:
            raise ToolkitError("--kv_stats has scales for 8 bits: add --kv_bits 8")
        layers = read_layer_scales(arguments.kv_stats)
    kv = KvQuantization(arguments.kv_bits, layers) if arguments.kv_bits else None
    return Compared(arguments.quantized, kv)


def evaluate(task: Task, make_task: Callable[[], Task], model: EvaluatedModel, others: Compared,
             limit: int | None, started: float) -> Outcome:
    """Asks all variants.

    Args:
        task: The task.
        make_task: Makes it anew for each further variant, because a task notes what it asked.
        model: The weights as they are.
        others: The variants beside them.
        limit: Only so many questions.
        started: When the command began.

    Returns:
        The outcome of the weights as they are; where there is something to compare, its result has
        `quantised`: for each variant its metrics, sizes, changed answers and whole result.

    Raises:
        ToolkitError: As runner.evaluate, or the quantised folder is not one or of another model.
    """
    plain = runner.evaluate(task, model, limit, started, compared=bool(others))
    if not others:
        return plain
    rows = {_type_of(model.checkpoint): _row(plain, plain, _weight_bytes(model.checkpoint), model)}
    with contextlib.ExitStack() as stack:
        for title, variant, size in _variants(model, others, stack):
            outcome = runner.evaluate(make_task(), variant, limit, started, compared=True)
            rows[title] = {**_row(outcome, plain, size, variant), "result": outcome.result}
    return dataclasses.replace(plain, result={**plain.result, "quantised": rows})


def _variants(model: EvaluatedModel, others: Compared, stack: contextlib.ExitStack
              ) -> Iterator[tuple[str, EvaluatedModel, int]]:
    """Title, model and bytes of the weights of each variant."""
    size = _weight_bytes(model.checkpoint)
    if others.kv:
        yield others.kv.title, dataclasses.replace(model, kv=others.kv), size
    if others.quantized:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="internlm_weights_")))
        path = folder / "dequantised.safetensors"
        facts = dequantize(others.quantized, path)
        print(f"{others.quantized} is dequantised to float16 while it is loaded: this measures its rounding, "
              "not its speed or memory")
        variant = dataclasses.replace(model, checkpoint=str(path))
        title, size = f"W{facts['bits']}", facts["bytes"]
        yield title, variant, size
        if others.kv:
            yield f"{title} + {others.kv.title}", dataclasses.replace(variant, kv=others.kv), size


def _type_of(checkpoint: str) -> str:
    with TensorFile(Path(checkpoint)) as file:
        return f"{file.entries['lm_head.weight'].dtype.itemsize * 8}-bit weights"


def _weight_bytes(checkpoint: str) -> int:
    with TensorFile(Path(checkpoint)) as file:
        return sum(entry.nbytes for name, entry in file.entries.items() if not is_training_state(name))


def _row(outcome: Outcome, plain: Outcome, weight_bytes: int, model: EvaluatedModel) -> dict[str, Any]:
    shape = model.model_config
    cache = {"layers": shape["num_layers"], "kv_heads": shape.get("n_kv_heads") or shape["num_heads"],
             "head_dim": shape["hidden_size"] // shape["num_heads"]}
    changed = [{"id": name, "from": plain.decisions.get(name), "to": decision}
               for name, decision in outcome.decisions.items() if decision != plain.decisions.get(name)]
    return {
        "metrics": {name: {"value": metric.value, "interval_95": metric.interval_95 and [*metric.interval_95]}
                    for name, metric in outcome.metrics.items()},
        "weight_bytes": weight_bytes,
        "kv_bytes_per_token": model.kv.bytes_of_token(**cache) if model.kv else 2 * _FLOAT_BYTES * (
            cache["layers"] * cache["kv_heads"] * cache["head_dim"]),
        "questions": len(outcome.decisions), "changed": changed,
    }


def lines(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The table, a line a variant.

    Args:
        rows: `quantised` of a result.
    """
    titles = max(map(len, rows), default=0)
    for title, row in rows.items():
        metrics = ", ".join(f"{name} {_number(metric)}" for name, metric in row["metrics"].items())
        changed = f", {len(row['changed'])} of {row['questions']} answers changed" if (
            "result" in row and row["questions"]) else ""
        yield (f"  {title:{titles}}  {metrics}; {row['weight_bytes'] / 1e6:,.2f} MB of weights, "
               f"{row['kv_bytes_per_token']:,} bytes of cache a token{changed}")


def _number(metric: Mapping[str, Any]) -> str:
    bounds = metric["interval_95"]
    return f"{metric['value']:.4g}" + (f" ({bounds[0]:.4g} to {bounds[1]:.4g})" if bounds else "")
