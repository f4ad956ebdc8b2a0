"""Versions that belong together, those installed, and whether what is installed is what would be imported."""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from research_internlm.shared.errors import ToolkitError

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


def imported_from() -> dict[str, str]:
    """The file that each package's import would run, found without importing it."""
    specs = {name: util.find_spec(name) for name in ("research_internlm", *PYTHON_PACKAGES)}
    return {name: spec.origin or f"{next(iter(spec.submodule_search_locations or ()), name)} (a folder)"
            for name, spec in specs.items() if spec}


def import_problems() -> Iterator[str]:
    """Packages of which another copy would be imported than the installed one, whose version is checked.

    Seen in 2024: the source folder of an older MindFormers on PYTHONPATH. Another copy of this toolkit is no
    problem as long as its setup.cfg names the version that is installed.
    """
    for name, origin in imported_from().items():
        installed = _installed_place(name)
        if installed is None or Path(origin).resolve().is_relative_to(installed.resolve()):
            continue
        folder = Path(origin).parent.parent
        version = metadata.version(name)
        if name not in PYTHON_PACKAGES:
            other = configparser.ConfigParser()
            other.read(folder / "setup.cfg", encoding="utf-8")
            if other.get("metadata", "version", fallback=version) == version:
                continue
        yield (f"{name} would be imported from {origin}, which is not the installed {name} {version} in "
               f"{installed}: take {folder} off PYTHONPATH")


def require_installed_packages() -> None:
    """Refuses to go on where other copies than the installed packages would be imported.

    Raises:
        ToolkitError: With all of `import_problems`.
    """
    if problems := list(import_problems()):
        raise ToolkitError("; ".join(problems))


def _installed_place(name: str) -> Path | None:
    """Folder of an installed package, of its sources if they are installed as editable; None if not known."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    package = Path(distribution.locate_file(name))  # its list of files would take a second to read
    if (package / "__init__.py").is_file():
        return package
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")  # PEP 610
    if direct.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(direct["url"]).path))
    return None


def cann_version() -> str | None:
    """CANN's version by `ASCEND_HOME_PATH/compiler/version.info`, or None where there is none."""
    file = Path(os.environ.get("ASCEND_HOME_PATH", "/usr/local/Ascend/ascend-toolkit/latest"),
                "compiler", "version.info")
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition("=")[2].strip() for line in lines if line.startswith("Version=")), None)
