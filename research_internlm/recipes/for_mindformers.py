"""A resolved recipe handed to MindFormers: where it logs, and its own configuration object."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_internlm.recipes.recipe import write_resolved
from research_internlm.shared import run_layout


def set_log_folder(recipe: Mapping[str, Any]) -> None:
    """Sends MindFormers' own logs to the output folder, unless the user chose another; before its import."""
    os.environ.setdefault("LOG_MF_PATH", str(run_layout.mindformers_log_dir(Path(recipe["output_dir"]))))


def mindformers_config(recipe: Mapping[str, Any]) -> Any:
    """The recipe as a MindFormerConfig.

    MindFormers fills in its template only for a file, and each process needs a file of its own: rank 0's
    resolved_config.yaml may not be there yet.
    """
    from mindformers import MindFormerConfig

    with tempfile.TemporaryDirectory() as folder:
        return MindFormerConfig(str(write_resolved(recipe, Path(folder) / run_layout.RESOLVED_CONFIG)))
