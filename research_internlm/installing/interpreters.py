"""The Pythons of a machine, and what each of them could import, found without importing it."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from research_internlm.shared import binaries, versions

MACHINES = ("x86_64", "aarch64")  # MindSpore has packages for Linux on these, linked against glibc
_NAMES = ("python3", *(f"python{major}.{minor}" for major, minor in reversed(versions.PYTHONS)), "python")
# Where images and conda keep a Python that is not on PATH.
PLACES = ("/usr/local/bin", "/usr/bin", "/usr/local/python3*/bin", "/opt/conda/bin", "/opt/conda/envs/*/bin",
          "/home/ma-user/anaconda3/bin", "/home/ma-user/anaconda3/envs/*/bin", "~/anaconda3/bin",
          "~/anaconda3/envs/*/bin", "~/miniconda3/bin", "~/miniconda3/envs/*/bin")
# Any Python 3 must understand it. An import of MindSpore takes seconds and needs CANN; its metadata does not.
_PROBE = """
import json, os, platform, struct, sys
facts = {"executable": sys.executable, "version": list(sys.version_info[:3]), "system": platform.system(),
         "machine": platform.machine(), "bits": struct.calcsize("P") * 8, "libc": platform.libc_ver()[0],
         "is_venv": sys.prefix != getattr(sys, "base_prefix", sys.prefix), "path": sys.path, "packages": {}}
try:
    import ctypes
    ctypes.CDLL("libgomp.so.1")
    facts["libgomp"] = True
except OSError:
    facts["libgomp"] = False
except ImportError:
    facts["libgomp"] = True  # not to be known
if sys.version_info >= (3, 8):
    from importlib import metadata, util
    for name in ("mindspore", "mindformers"):
        spec = util.find_spec(name)
        if spec and spec.origin:
            try:
                facts["packages"][name] = [metadata.version(name), os.path.dirname(spec.origin)]
            except metadata.PackageNotFoundError:
                pass
print(json.dumps(facts))
"""


class Interpreter(NamedTuple):
    """What a Python said about itself."""

    executable: str
    version: tuple[int, ...]
    system: str  # platform.system()
    machine: str  # platform.machine()
    bits: int
    libc: str
    libgomp: bool  # whether it finds the OpenMP library that MindSpore needs and no wheel brings
    is_venv: bool
    path: list[str]  # its sys.path
    packages: dict[str, tuple[str, str]]  # name -> version and folder, without what PYTHONPATH adds

    @property
    def release(self) -> str:
        """Version as in a file name: 3.11."""
        return "{}.{}".format(*self.version)

    @property
    def problem(self) -> str | None:
        """Why MindSpore cannot be installed for this Python; None where it can."""
        if self.system != "Linux" or self.machine not in MACHINES or self.bits != 64 or self.libc != "glibc":
            system = f"{self.bits} bits on {self.system} {self.machine}"
            if self.system == "Linux" and self.libc != "glibc":
                system += " without glibc"
            return (f"{system}; MindSpore has packages for 64 bits on Linux {' and '.join(MACHINES)} with "
                    "glibc only")
        if self.version[:2] not in versions.PYTHONS:
            first, last = versions.PYTHONS[0], versions.PYTHONS[-1]
            return (f"version {'.'.join(map(str, self.version))}, not "
                    f"{first[0]}.{first[1]} to {last[0]}.{last[1]}")
        if not self.libgomp:
            return ("without libgomp.so.1, which MindSpore needs: install the package libgomp1 (Debian, "
                    "Ubuntu) or libgomp (openEuler)")
        return None

    @property
    def pair(self) -> versions.Pair | None:
        """The supported pair whose MindSpore an environment of this Python can share."""
        version, folder = self.packages.get("mindspore", (None, None))
        pair = version and versions.pair_with(mindspore=version)
        # An environment made from a virtual environment sees the packages of that one's base instead.
        if not pair or self.is_venv or binaries.machine_of_package(folder) not in (self.machine, None):
            return None
        return pair


def ask(executable: str) -> Interpreter | None:
    """What a Python says about itself; None where it does not run."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run([executable, "-c", _PROBE], cwd="/", env=clean, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=True)
        facts = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    facts.update(version=tuple(facts["version"]),
                 packages={name: tuple(found) for name, found in facts["packages"].items()})
    return Interpreter(**facts)


def candidates(environment: Mapping[str, str]) -> Iterator[str]:
    """Programs that may be a suitable Python, in the order they are preferred.

    Args:
        environment: With `PYTHON`, that one alone; else PATH, CONDA_PREFIX and the usual places.
    """
    if environment.get("PYTHON"):
        yield shutil.which(environment["PYTHON"], path=environment.get("PATH")) or environment["PYTHON"]
        return
    folders = environment.get("PATH", "").split(os.pathsep)
    if environment.get("CONDA_PREFIX"):
        folders.append(os.path.join(environment["CONDA_PREFIX"], "bin"))
    for place in PLACES:
        folders += sorted(glob.glob(os.path.expanduser(place)))
    seen = set()
    for name in _NAMES:
        for folder in folders:
            file = Path(folder or ".", name)
            key = (file.parent.resolve(), file.resolve())  # python3 and python3.11 beside each other are one
            if key not in seen and os.access(file, os.X_OK) and file.is_file():
                seen.add(key)
                yield str(file.absolute())


def find(environment: Mapping[str, str], but_not_in: Path) -> list[Interpreter]:
    """Every Python of the machine that runs.

    Args:
        environment: See `candidates`.
        but_not_in: The environment that is being set up.
    """
    found = {}
    for file in candidates(environment):
        if but_not_in.resolve() not in (parent.resolve() for parent in Path(file).parents):
            interpreter = ask(file)
            if interpreter:
                found.setdefault(interpreter.executable, interpreter)
    return list(found.values())
