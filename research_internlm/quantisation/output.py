"""The folder of quantised weights: which ones may be replaced, and what is in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, read_manifest
from research_internlm.shared.result_set import ResultSet, result_set

WEIGHTS = "model.safetensors"
CHECKPOINT = "model.ckpt"  # of the format that MindSpore reads
_TOOLS = ("weights.py quantize", "weights.py calibrate")
KV_STATISTICS = "kv_cache.json"
_MANIFESTED = (WEIGHTS, CHECKPOINT, KV_STATISTICS)


@contextlib.contextmanager
def output_folder(output: Path, overwrite: bool, inputs: Sequence[Path]) -> Iterator[ResultSet]:
    """Locks a folder to be made.

    Raises:
        ToolkitError: It exists and `overwrite` is False, or holds something that the toolkit did not write.
    """
    vouching = next((name for name in _MANIFESTED if manifest_path(output / name).exists()), WEIGHTS)
    with result_set(output, overwrite, {output: manifest_path(output / vouching)}, inputs, is_folder=True
                    ) as results:
        if output.exists() and (read_manifest(output / vouching) or {}).get("tool") not in _TOOLS:
            raise ToolkitError(f"{output} is not a folder of quantised weights or statistics of this "
                               "toolkit, so --overwrite does not replace it; name another folder")
        yield results
