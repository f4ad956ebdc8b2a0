"""The folder in which a long job over layers keeps what it has done, so that the same command goes on.

`OUTPUT.stages` lies beside the output. A layer's result has its final name when it is whole, and the hidden
states that the next layer needs have theirs before that. They are files, not arrays in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, require_room, write_json

_SUFFIX = ".stages"
_SETTINGS = "settings.json"
_NEW = ".new"


class Stages:
    """The stages of one job.

    Args:
        output: The job's output.
        settings: All that the result depends on, as JSON.

    Attributes:
        folder: The folder.

    Raises:
        ToolkitError: The folder holds the stages of another job.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.folder = output.with_name(output.name + _SUFFIX)
        settings = json.loads(json.dumps(settings))
        stated = self.folder / _SETTINGS
        if stated.exists():
            earlier = read_json(stated, "the settings of the stages")
            earlier = earlier if isinstance(earlier, dict) else {}
            other = [key for key in settings if earlier.get(key) != settings[key]]
            if other:
                raise ToolkitError(f"{self.folder} holds what another command has done for {output} (it "
                                   f"differs in {', '.join(other)}): remove the folder to start anew, or "
                                   "name another output")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(stated, settings)

    def layer(self, layer: int, suffix: str) -> Path:
        """The file of a layer's result."""
        return self.folder / f"layer_{layer:03}{suffix}"

    def layers_done(self, count: int, suffix: str) -> int:
        """How many of the first `count` layers have their result, without a gap."""
        return next((layer for layer in range(count) if not self.layer(layer, suffix).exists()), count)

    def publish(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Lets `write` make a file under another name, then gives it its own."""
        new = path.with_name(_NEW + path.name)
        new.unlink(missing_ok=True)
        write(new)
        os.replace(new, path)

    def hidden(self, layer: int) -> np.ndarray:
        """The hidden states that a layer is given, float32 (sequences, length, hidden), mapped."""
        return np.load(self._hidden(layer), mmap_mode="r")

    def keep_first_hidden(self, make: Callable[[], np.ndarray], layers_done: int) -> None:
        """Keeps the inputs of layer 0, unless a layer is done already or they are there."""
        path = self._hidden(0)
        if not layers_done and not path.exists():
            hidden = make()
            require_room(self.folder, 2 * hidden.nbytes, "the hidden states of the calibration")
            self.publish(path, lambda new: _save(new, hidden))

    def write_hidden(self, layer: int, like: np.ndarray, blocks: Iterator[np.ndarray]) -> None:
        """Writes the hidden states that a layer is given, block by block."""
        def write(new: Path) -> None:
            mapped = np.lib.format.open_memmap(new, "w+", np.float32, like.shape)
            start = 0
            for block in blocks:
                mapped[start:start + len(block)] = block
                start += len(block)
            mapped.flush()

        self.publish(self._hidden(layer), write)

    def drop_hidden(self, layer: int) -> None:
        """Removes hidden states that no layer needs any more."""
        self._hidden(layer).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder, once the output is there."""
        shutil.rmtree(self.folder)

    def _hidden(self, layer: int) -> Path:
        return self.folder / f"hidden_{layer:03}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
