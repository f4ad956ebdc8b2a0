"""The owner of tensor types: their names in each file format, bfloat16, casts and the finite check.

numpy has no bfloat16. Here it is a structured type of one 16-bit field, so that an array still knows what
it is and is not computed with by accident; `to_float32` and `cast` go in and out of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from research_internlm.shared.errors import ToolkitError

BF16 = np.dtype([("bf16", "<u2")])
FP64 = np.dtype("<f8")  # read, and written only as another type
INT4X2 = np.dtype([("int4x2", "u1")])  # two of MindSpore's qint4x2 in a byte, which its .ckpt calls Int4
FLAG_TYPES = {"fp16": np.dtype("<f2"), "bf16": BF16, "fp32": np.dtype("<f4")}  # --dtype

# numpy type, its name in safetensors, its name in a MindSpore .ckpt (mindspore/train/serialization.py)
_TABLE = (
    (np.dtype("<f2"), "F16", "Float16"),
    (BF16, "BF16", "BFloat16"),
    (np.dtype("<f4"), "F32", "Float32"),
    (FP64, "F64", "Float64"),
    (np.dtype("i1"), "I8", "Int8"),
    (np.dtype("<i2"), "I16", "Int16"),
    (np.dtype("<i4"), "I32", "Int32"),
    (np.dtype("<i8"), "I64", "Int64"),
    (np.dtype("u1"), "U8", "UInt8"),
    (np.dtype("?"), "BOOL", "Bool"),
)
FROM_SAFETENSORS = {code: dtype for dtype, code, _ in _TABLE}
FROM_CKPT = {code: dtype for dtype, _, code in _TABLE} | {"Int4": INT4X2}
TO_SAFETENSORS = {dtype: code for dtype, code, _ in _TABLE}
TO_CKPT = {dtype: code for dtype, _, code in _TABLE} | {INT4X2: "Int4"}

_INFINITE_BITS = {np.dtype("<f2"): 0x7C00, BF16: 0x7F80, np.dtype("<f4"): 0x7F800000}
_QUIET_NAN = 0x7FC0


@dataclass
class Entry:
    """One tensor of a file.

    Attributes:
        shape: Dimensions; empty for a scalar.
        dtype: Its type, or None where this module does not know it.
        pieces: (offset, bytes) of its content in the file, in order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | None
    pieces: list[tuple[int, int]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        if self.dtype is None:
            raise ToolkitError("a tensor is of a type this toolkit does not read (quantised weights?)")
        return math.prod(self.shape) * self.dtype.itemsize


def to_float32(array: np.ndarray) -> np.ndarray:
    """The values as float32; exact for float16 and bfloat16, infinite beyond float32's range."""
    if array.dtype == BF16:
        return (array["bf16"].astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # the caller's finite check says it with the tensor's name
        return array.astype(np.float32, copy=False)


def cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Casts between float types, to the nearest value, ties to even; float64 by way of float32.

    Args:
        array: Any shape, of a type of the table.
        dtype: Wanted type.

    Returns:
        The array itself where nothing is to be done. A value beyond the range of `dtype` is infinite.
    """
    if array.dtype == dtype:
        return array
    values = to_float32(array)
    if dtype != BF16:
        with np.errstate(over="ignore"):  # the caller's finite check says it with the tensor's name
            return values.astype(dtype, copy=False)
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Rounding a NaN up could carry into the sign and make a number of it.
    return np.where(np.isnan(values), np.uint16(_QUIET_NAN), rounded).view(BF16)


def is_finite(array: np.ndarray) -> bool:
    """Whether no value is NaN or infinite.

    Looks at the exponent bits: several times faster than isfinite for 16-bit types.

    Args:
        array: Contiguous float16, bfloat16 or float32 values; other types pass unseen.
    """
    mask = _INFINITE_BITS.get(array.dtype)
    if mask is None:
        return True
    bits = array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)
    return not ((bits & bits.dtype.type(mask)) == mask).any()


class FiniteCheck:
    """Checks every block of a result and reports all tensors that are not finite at once.

    Args:
        advice: What the user can do, for the message.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._found: dict[str, np.dtype] = {}

    def see(self, array: np.ndarray, name: str) -> np.ndarray:
        """Passes a block of a tensor on, noting the name if it holds NaN or infinite values."""
        if name not in self._found and not is_finite(array):
            self._found[name] = array.dtype
        return array

    def finish(self) -> None:
        """Ends the check.

        Raises:
            ToolkitError: Tensors were not finite; all are named.
        """
        if self._found:
            flags = {dtype: flag for flag, dtype in FLAG_TYPES.items()}
            listed = ", ".join(f"{name} ({flags[dtype]})" for name, dtype in self._found.items())
            raise ToolkitError(f"{len(self._found)} tensors would hold NaN or infinite values: {listed}; "
                               f"the source does, or its values are beyond the type's range; {self._advice}")
