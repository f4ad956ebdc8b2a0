"""Holds a MindRecord's manifest against what the trainer is about to read it as; no MindSpore needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from research_internlm.errors import ToolkitError
from research_internlm.files import manifest_path, read_manifest, require_file
from research_internlm.prompts import END_MARKERS, PROMPT_VERSION, prompt_version
from research_internlm.tokens import INTERNLM

_CONVERT = "preprocess/alpaca_data_preprocess_v1.py"


def check_mindrecord(path: str | os.PathLike, row_length: int, what: str, config: str | os.PathLike
                     ) -> dict[str, Any]:
    """Checks that a MindRecord is whole and was made for this run.

    A file without a manifest (upstream's converter writes none) is refused: its row length and tokenizer
    cannot be told from outside, and a wrong one costs a compile on paid hours or, worse, trains.

    Args:
        path: The file, or the common name of its partitions (`train.mindrecord` of `train.mindrecord0` ...).
        row_length: Tokens per row that the run needs.
        what: Its name to the user, e.g. `--train_dataset`.
        config: The recipe, for the message.

    Returns:
        The manifest.

    Raises:
        ToolkitError: A part is missing or has another size, or the rows, the prompt or the format differ.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest is None:
        require_file(path, what, f"{_CONVERT} makes it")
        raise ToolkitError(f"{what} {path} has no manifest {manifest_path(path).name} beside it, so nobody "
                           f"can tell what its rows are; convert the json again with {_CONVERT}")
    for part in manifest["parts"]:
        file = require_file(path.with_name(part["file"]), f"{what}'s part", "copy .mindrecord and .db files "
                            f"together, or convert again with {_CONVERT}")
        if file.stat().st_size != part["bytes"]:
            raise ToolkitError(f"{file} has {file.stat().st_size} bytes, its manifest says {part['bytes']}: "
                               f"it was cut or replaced; copy it again or rerun {_CONVERT}")
    if manifest["record_length"] != row_length:
        raise ToolkitError(
            f"{path.name} holds {manifest['record_length']}-token rows (--seq_length "
            f"{manifest['seq_length']}), but {config} needs {row_length}-token rows for {what}: rerun "
            f"{_CONVERT} with --seq_length {row_length - 1}, or change model.model_config.seq_length")
    if manifest["prompt_version"] not in map(prompt_version, END_MARKERS[INTERNLM]):
        raise ToolkitError(f"{path.name} was made with prompt version {manifest['prompt_version']}, the "
                           f"toolkit now renders {PROMPT_VERSION}: rerun {_CONVERT}")
    return manifest


def mindrecord_files(path: str | os.PathLike) -> list[str]:
    """The MindRecord files behind a name: itself, or its partitions, without the .db files.

    Raises:
        ToolkitError: There is no manifest.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise ToolkitError(f"{path} has no manifest; rerun {_CONVERT}")
    return [str(Path(path).with_name(part["file"])) for part in manifest["parts"]
            if not part["file"].endswith(".db")]
