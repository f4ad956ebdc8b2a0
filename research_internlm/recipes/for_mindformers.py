"""A resolved recipe handed to MindFormers: where it logs, and its own configuration object."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_internlm.recipes.recipe import write_resolved
from research_internlm.shared import run_layout


def set_log_folder(folder: Path, always: bool = False) -> None:
    """Says where MindFormers puts its logs and strategies, by default ./output; before its import.

    A user without a name and a home (a container that runs under a bare number) gets the folder as home:
    nltk, which MindFormers imports, fails without one.

    Args:
        folder: The output folder.
        always: Whether to replace what the user chose.
    """
    for name, path in (("LOG_MF_PATH", run_layout.mindformers_log_dir(folder)),
                       ("LOCAL_DEFAULT_PATH", folder)):
        if always or name not in os.environ:
            os.environ[name] = str(path.absolute())
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(folder.absolute())


def set_scratch_log_folder() -> None:
    """Does the same for a command whose results are files of its own: a folder that goes when it ends."""
    if not {"LOG_MF_PATH", "LOCAL_DEFAULT_PATH"} <= os.environ.keys() or os.path.expanduser("~") == "~":
        folder = tempfile.mkdtemp(prefix="mindformers-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        set_log_folder(Path(folder))


def mindformers_config(recipe: Mapping[str, Any]) -> Any:
    """The recipe as a MindFormerConfig.

    MindFormers fills in its template only for a file, and each process needs a file of its own: rank 0's
    resolved_config.yaml may not be there yet.
    """
    from mindformers import MindFormerConfig

    with tempfile.TemporaryDirectory() as folder:
        return MindFormerConfig(str(write_resolved(recipe, Path(folder) / run_layout.RESOLVED_CONFIG)))
