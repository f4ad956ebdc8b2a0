"""Shared fixtures: the project root, and the real data where this machine has it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real csv, SQuAD and tokenizer files; skips the test where it is absent."""
    path = Path(os.environ.get("TOOLKIT_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TOOLKIT_REAL_DATA")
    return path
