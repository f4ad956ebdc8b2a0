"""Versions that belong together, those installed, and whether what is installed is what would be imported."""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from research_internlm.shared.errors import ToolkitError


class Pair(NamedTuple):
    """A release of MindFormers and what it was released with.

    Source: MindFormers' README and installation guide, "Confirming Version Matching Relationship";
    `accepted_cann` from MindSpore's own run_check (mindspore/run_check/_check_version.py).
    """

    mindformers: str
    mindspore: str
    cann: str
    firmware: str  # driver and firmware of the NPUs, one number
    accepted_cann: tuple[str, ...]  # first two numbers of every CANN release that MindSpore runs on


# The supported window, newest first; set-up installs the first. setup.cfg repeats its ends.
PAIRS = (
    Pair("1.9.0", "2.9.0", cann="9.0.0", firmware="26.0.RC1", accepted_cann=("9.0", "8.5", "8.3", "8.2")),
    Pair("1.8.0", "2.7.2", cann="8.5.0", firmware="25.5.0", accepted_cann=("8.5",)),
)
PYTHONS = ((3, 10), (3, 11), (3, 12))  # both MindSpores have wheels for these; setup.cfg repeats the ends
PYTHON_PACKAGES = ("mindspore", "mindformers")
WINDOW = {"oldest": PAIRS[-1].mindformers, "newest": PAIRS[0].mindformers}
NOT_TESTED = "MindFormers {version} is not supported, only {oldest} to {newest} are tested"
NOT_PUBLISHED = ("MindFormers {version} is not supported, only {oldest} to {newest}: from 2.0.0 on it "
                 "imports hyper_parallel, which the public package index does not have")
OTHER_COPY = ("{name} would be imported from {origin}, which is not the installed {name} {version} in "
              "{place}: take {folder} off PYTHONPATH")


class OtherCopy(NamedTuple):
    """A package of which another copy would be imported than the installed one.

    Attributes:
        name: The package.
        origin: File that an import would run.
        version: Of the installed copy.
        place: Folder of the installed copy.
        folder: Folder of the other one.
    """

    name: str
    origin: str
    version: str
    place: str
    folder: str

    def __str__(self) -> str:
        return OTHER_COPY.format_map(self._asdict())


def pair_with(mindformers: str | None = None, mindspore: str | None = None) -> Pair | None:
    """The supported pair with this MindFormers or this MindSpore (a build mark such as +cann is ignored)."""
    for pair in PAIRS:
        if mindformers and mindformers.partition("+")[0] == pair.mindformers:
            return pair
        if mindspore and mindspore.partition("+")[0] == pair.mindspore:
            return pair
    return None


def is_published(mindformers: str) -> bool:
    """Whether what this release imports can be had: 2.0.0 and later need hyper_parallel."""
    major = mindformers.partition(".")[0]
    return not (major.isdigit() and int(major) >= 2)


def unsupported_mindformers(version: str) -> str:
    """Why a release outside the window is not supported."""
    return (NOT_TESTED if is_published(version) else NOT_PUBLISHED).format(version=version, **WINDOW)


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


def other_copies() -> Iterator[OtherCopy]:
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
        yield OtherCopy(name, origin, version, str(installed), str(folder))


def import_problems() -> list[str]:
    """The sentences of `other_copies`."""
    return [str(copy) for copy in other_copies()]


def require_installed_packages() -> None:
    """Refuses to go on where other copies than the installed packages would be imported.

    Raises:
        ToolkitError: With all of `import_problems`.
    """
    if problems := import_problems():
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
