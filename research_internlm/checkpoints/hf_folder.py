"""A model folder of Hugging Face as one set of tensors: safetensors or pytorch_model*.bin, sharded or not.

Shards come from the index file where there is one. Of safetensors only the rows asked for are read; a .bin
shard is mapped by torch (weights only, no pickled code runs) and closed before the next one.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.checkpoints import dtypes
from research_internlm.checkpoints.dtypes import Entry
from research_internlm.checkpoints.tensor_files import TensorFile
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import lfs_pointers, read_json, require_file

MODEL_FILES = (("model", ".safetensors"), ("pytorch_model", ".bin"))
ADAPTER_FILES = (("adapter_model", ".safetensors"), ("adapter_model", ".bin"))


def shards_of(folder: str | os.PathLike, kinds: Sequence[tuple[str, str]] = MODEL_FILES) -> list[Path]:
    """The weight files of a model folder, in the index file's order.

    Safetensors are preferred where a folder has both forms.

    Args:
        folder: The folder.
        kinds: MODEL_FILES or ADAPTER_FILES, stem and suffix of their names.

    Raises:
        ToolkitError: The folder is missing, holds no weights or Git LFS pointers, or lacks a shard its index
            names.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ToolkitError(f"the model folder {folder} is missing or is not a folder; give the folder that "
                           "holds config.json and the weights")
    for stem, suffix in kinds:
        index = folder / f"{stem}{suffix}.index.json"
        if index.exists():
            return _require_shards(folder, index)
        if (folder / f"{stem}{suffix}").exists():
            return _require_fetched([folder / f"{stem}{suffix}"])
        pieces = sorted(folder.glob(f"{stem}-*-of-*{suffix}"))
        if pieces:
            raise ToolkitError(f"{folder} holds {len(pieces)} shards such as {pieces[0].name} but no "
                               f"{index.name}, which lists them all; download it too")
    names = " nor ".join(f"{stem}*{suffix}" for stem, suffix in kinds)
    raise ToolkitError(f"{folder} holds neither {names}")


def _require_fetched(shards: list[Path]) -> list[Path]:
    """The shards, none of which may be a Git LFS pointer; the tokenizer, needed next, is named too."""
    if pointers := lfs_pointers(shards):
        folder = shards[0].parent
        pointers += lfs_pointers([folder / "tokenizer.model"])
        raise ToolkitError(f"{', '.join(path.name for path in pointers)} in {folder} are Git LFS pointers, "
                           "not the files themselves: run `git lfs pull` there, or download them from the "
                           "release's page")
    return shards


def _require_shards(folder: Path, index: Path) -> list[Path]:
    """The shards an index names, all of which must be there."""
    shards = _require_fetched([folder / name for name in sorted(set(_weight_map(index).values()))])
    faults = []
    for shard in shards:
        try:
            require_file(shard, "the shard")
        except ToolkitError as error:
            faults.append(str(error))
    if faults:
        raise ToolkitError(f"{'; '.join(faults)}; {index.name} names {len(shards)} shards, download the "
                           f"{len(faults)} again")
    return shards


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index, "the index file")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ToolkitError(f"the index file {index} has no weight_map; download it again")
    odd = [f"{name}: {shard!r}" for name, shard in weight_map.items()
           if not isinstance(shard, str) or Path(shard).name != shard]
    if odd:
        raise ToolkitError(f"the index file {index} has no file for {len(odd)} tensors ({', '.join(odd)}"
                           "); download it again")
    return weight_map


class HfFolder:
    """The tensors of a model folder.

    Args:
        folder: Holds config.json and the weights.
        kinds: As for `shards_of`.

    Attributes:
        shards: The weight files.
        place: Tensor name to the shard that holds it.
        entries: Tensor name to Entry, shard by shard.

    Raises:
        ToolkitError: Weights are missing, damaged, or in two shards at once.
    """

    def __init__(self, folder: str | os.PathLike, kinds: Sequence[tuple[str, str]] = MODEL_FILES) -> None:
        self.shards = shards_of(folder, kinds)
        self.place: dict[str, Path] = {}
        self.entries: dict[str, Entry] = {}
        self._opened: tuple[Path, Any] | None = None
        twice = []
        for shard in self.shards:
            for name, entry in self._shard(shard).entries.items():
                if name in self.place:
                    twice.append(f"{name} is in {self.place[name].name} and in {shard.name}")
                self.place[name], self.entries[name] = shard, entry
        if twice:
            raise ToolkitError(f"{'; '.join(twice)}; the folder mixes two downloads")

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a tensor; asking shard by shard keeps one shard open at a time."""
        return self._shard(self.place[name]).rows(name, start, stop)

    def _shard(self, path: Path) -> Any:
        if self._opened is None or self._opened[0] != path:
            self.close()
            opened = TensorFile(path, "the shard") if path.suffix == ".safetensors" else _BinShard(path)
            self._opened = (path, opened)
        return self._opened[1]

    def close(self) -> None:
        """Closes the open shard."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None


class _BinShard:
    """A pytorch_model*.bin file with TensorFile's interface."""

    def __init__(self, path: Path) -> None:
        self._tensors = _load_bin(path)
        self.entries = {name: Entry(tuple(tensor.shape), self._numpy_type(tensor))
                        for name, tensor in self._tensors.items()}

    @staticmethod
    def _numpy_type(tensor: Any) -> np.dtype | None:
        name = str(tensor.dtype).removeprefix("torch.")
        return {"float16": dtypes.FLAG_TYPES["fp16"], "bfloat16": dtypes.BF16,
                "float32": dtypes.FLAG_TYPES["fp32"], "float64": dtypes.FP64}.get(name)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        import torch

        rows = self._tensors[name][start:stop].contiguous()
        if rows.dtype == torch.bfloat16:
            return rows.view(torch.int16).numpy().view(dtypes.BF16)
        return rows.numpy()

    def close(self) -> None:
        self._tensors.clear()


def _load_bin(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise ToolkitError(f"{path} is a PyTorch file and torch is not installed; install it with pip "
                           "install -e '.[hf]', or download the model as safetensors") from None
    try:
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:  # files from before torch 1.6 cannot be mapped
            if "mmap" not in str(error):
                raise
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ToolkitError(f"{path} cannot be read as PyTorch weights (truncated, or it holds code, which "
                           f"is never run): {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(item, torch.Tensor) for item in tensors.values()):
        raise ToolkitError(f"{path} is not a plain mapping of names to tensors")
    return {name: tensor.detach() for name, tensor in tensors.items()}  # parameters are read as their values
