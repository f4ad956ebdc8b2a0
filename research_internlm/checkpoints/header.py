"""What a MindSpore .ckpt says of the run that wrote it: step counters, and the adapter its matrices show.

Only names, shapes and single numbers are read, so a 15 GB file takes milliseconds. No MindSpore.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research_internlm.checkpoints.tensor_files import TensorFile
from research_internlm.shared.errors import ToolkitError

_LORA_A, _LORA_B = ".mindpet_delta_lora_a", ".mindpet_delta_lora_b"


@dataclass(frozen=True)
class Value:
    """One value of a checkpoint.

    Attributes:
        shape: Dimensions; empty for a scalar.
        number: The number itself where the value is a single one, else None.
    """

    shape: tuple[int, ...]
    number: float | int | None


def read_header(path: str | os.PathLike) -> dict[str, Value]:
    """Reads what a checkpoint holds.

    Args:
        path: A .ckpt file.

    Returns:
        Name -> value, in the file's order.

    Raises:
        ToolkitError: Truncated, or not a MindSpore checkpoint.
        FileNotFoundError: It is gone.
    """
    path = Path(path)
    path.stat()
    with TensorFile(path, "the checkpoint") as file:
        return {name: Value(entry.shape, _number(file, name)) for name, entry in file.entries.items()}


def _number(file: TensorFile, name: str) -> float | int | None:
    entry = file.entries[name]
    if entry.dtype is None or entry.dtype.fields or np.prod(entry.shape) != 1:
        return None
    return file.read(name).reshape(-1)[0].item()


def step_of(header: Mapping[str, Value], path: str | os.PathLike) -> int:
    """The step a full training checkpoint was saved after, whatever its file name says.

    File names are wrong after a resume in the middle of an epoch (MindFormers 1.9.0), and `global_step`
    does not count steps whose gradients overflowed; `step_num` is right in both cases.

    Raises:
        ToolkitError: It has no step counter.
    """
    entry = header.get("step_num")
    if entry is None or entry.number is None:
        raise ToolkitError(f"{path} has no step_num: it is not a full training checkpoint, or is "
                           "truncated")
    return int(entry.number)


def adapter_facts(header: Mapping[str, Value]) -> dict[str, object]:
    """LoRA facts that the stored matrices themselves state.

    Returns:
        `lora_rank`, `target_modules` (sorted cell names, joined by a space), `trainable` (parameters);
        empty where the checkpoint holds no adapter.
    """
    a = {name: entry.shape for name, entry in header.items() if _is_weight(name, _LORA_A)}
    b = {name: entry.shape for name, entry in header.items() if _is_weight(name, _LORA_B)}
    if not a:
        return {}
    ranks = {shape[0] for shape in a.values()} | {shape[1] for shape in b.values()}
    return {
        "lora_rank": ranks.pop() if len(ranks) == 1 else " and ".join(map(str, sorted(ranks))),
        "target_modules": " ".join(sorted({name.removesuffix(_LORA_A).rsplit(".", 1)[-1] for name in a})),
        "trainable": sum(rows * columns for rows, columns in [*a.values(), *b.values()]),
    }


def _is_weight(name: str, suffix: str) -> bool:
    """Whether it is the matrix itself; the optimizer keeps moments under the same name with a prefix."""
    return name.endswith(suffix) and name.startswith("model.")
