"""Versions that belong together, and those installed."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

# MindFormers' installation guide, "Confirming Version Matching Relationship": MindFormers -> MindSpore.
MINDSPORE_OF = {"1.9.0": "2.9.0", "1.8.0": "2.7.2", "1.7.0": "2.7.1", "1.6.0": "2.7.0"}
# CANN releases MindSpore 2.9.0 accepts (its run_check); the guide names 9.0.0 for MindFormers 1.9.0.
CANN_OF = {"2.9.0": ("9.0", "8.5", "8.3", "8.2"), "2.7.2": ("8.5",), "2.7.1": ("8.3",), "2.7.0": ("8.2",)}
PYTHON_PACKAGES = ("mindspore", "mindformers")


def installed_versions() -> dict[str, str]:
    """Versions of what a run depends on; packages that are not installed are left out."""
    found = {}
    for name in ("research-internlm", *PYTHON_PACKAGES, "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cann = cann_version()
    return found | ({"cann": cann} if cann else {})


def cann_version() -> str | None:
    """CANN's version by `ASCEND_HOME_PATH/compiler/version.info`, or None where there is none."""
    file = Path(os.environ.get("ASCEND_HOME_PATH", "/usr/local/Ascend/ascend-toolkit/latest"),
                "compiler", "version.info")
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition("=")[2].strip() for line in lines if line.startswith("Version=")), None)
