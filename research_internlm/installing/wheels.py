"""Wheel folders: everything set-up installs, fetched on one machine for another one without a network."""

from __future__ import annotations

import configparser
import json
import os
import platform as this_platform
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from research_internlm.installing import ROOT, interpreters
from research_internlm.shared import binaries, versions
from research_internlm.shared.errors import ToolkitError

_CONTENTS = "wheels.json"
# The index has these as sources only. Wheels are built here, so that the other machine needs no compiler.
_SOURCES_ONLY = ("jieba", "esdk-obs-python", "crcmod")
# For building the project itself into the environment.
_BUILD = ("setuptools>=65", "wheel")
# Newest glibc first that a wheel may ask for: 2.28 is that of openEuler 20.03 and Ubuntu 18.10.
_GLIBC_MINORS = range(28, 16, -1)


class WheelFolder(NamedTuple):
    """A complete wheel folder and what it is for."""

    path: Path
    machine: str
    release: str  # of Python, e.g. 3.11
    pair: versions.Pair


def open_folder(path: Path) -> WheelFolder:
    """Reads what a wheel folder is for.

    Raises:
        ToolkitError: It was not made by `download`, or not to its end.
    """
    try:
        facts = json.loads((path / _CONTENTS).read_text(encoding="utf-8"))
        return WheelFolder(path.resolve(), facts["machine"], facts["python"],
                           versions.pair_with(mindformers=facts["mindformers"]))
    except (OSError, ValueError, KeyError):
        raise ToolkitError(f"WHEELS={path} is not a complete wheel folder ({_CONTENTS} is missing or damaged)"
                           f": make it with bash scripts/setup.sh --download {path}, where there is a network"
                           ) from None


def download(path: Path, pair: versions.Pair, platform: str | None, release: str | None,
             environment: dict[str, str]) -> None:
    """Makes a wheel folder. Run again, it fetches only what is missing.

    Args:
        path: The folder.
        pair: MindFormers and MindSpore.
        platform: `linux_x86_64` or `linux_aarch64`; None for this machine's.
        release: Python's release; None for that of this machine's first suitable Python.
        environment: Variables that name Pythons.

    Raises:
        ToolkitError: No Python is suitable, pip fails, or MindSpore's wheel is for another machine.
    """
    machine = (platform or f"linux_{this_platform.machine()}").partition("_")[2]
    if machine not in interpreters.MACHINES:
        raise ToolkitError(f"MindSpore has no packages for {machine}; for another machine add --platform "
                           f"linux_{' or linux_'.join(interpreters.MACHINES)}")
    release = release or _first_release(environment)
    print(f"Set-up: {path} gets the wheels of MindSpore {pair.mindspore}, MindFormers {pair.mindformers} and "
          f"all they need, for Linux {machine}, Python {release}; about 1 GB", flush=True)
    path.mkdir(parents=True, exist_ok=True)
    contents = path / _CONTENTS
    if contents.exists():
        contents.unlink()
    with tempfile.TemporaryDirectory() as temporary:
        python = _pip_of_its_own(Path(temporary))
        for name in _SOURCES_ONLY:
            if not list(path.glob(f"{name.replace('-', '_')}-*.whl")):
                # Without a C compiler crcmod becomes pure Python, which installs on every machine. pip's
                # cache may hold it as it was compiled for this one.
                _pip(python, "wheel", "--no-deps", "--no-cache-dir", "--no-binary", name, "-w", path, name,
                     CC="false")
        wanted = [*requirements(pair), *_BUILD]
        while wanted:
            _pip(python, "download", *target_options(machine, release), "-d", path, "--find-links", path,
                 *wanted)
            wanted = _missing(python, path, release, machine)
    _require_machine(path, machine)
    part = path / f"{_CONTENTS}.part"
    part.write_text(json.dumps({"machine": machine, "python": release, "mindformers": pair.mindformers}))
    part.replace(contents)
    print(f"Ready: copy {path} and the project to the other machine, then run there: WHEELS={path.name} "
          "bash scripts/setup.sh")


def requirements(pair: versions.Pair) -> list[str]:
    """What set-up installs, from setup.cfg, with the pair instead of its window."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [*setup["options"]["install_requires"].split("\n"),
             *setup["options.extras_require"]["dev"].split("\n")]
    others = [line for line in lines if line and not line.startswith(versions.PYTHON_PACKAGES)]
    return [f"mindspore=={pair.mindspore}", f"mindformers=={pair.mindformers}", *others]


def target_options(machine: str, release: str) -> list[str]:
    """pip's options for wheels of another machine and Python."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    if machine == "x86_64":
        tags += ["manylinux_2_12_x86_64", "manylinux2010_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64"]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", release]
    for tag in tags:
        options += ["--platform", tag]
    return options


def _first_release(environment: dict[str, str]) -> str:
    for file in interpreters.candidates(environment):
        python = interpreters.ask(file)
        if python and python.version[:2] in versions.PYTHONS:
            return python.release
    raise ToolkitError("which Python the wheels are for is not known: add --python 3.11")


def _pip_of_its_own(folder: Path) -> str:
    """A Python with a pip: the one that runs this may have none."""
    python = folder / "bin/python"
    done = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolkitError(f"{sys.executable} -m venv failed ({(done.stdout + done.stderr).strip()}); on "
                           "Debian and Ubuntu it needs the package python3-venv")
    return str(python)


def _pip(python: str, *arguments: object, **variables: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    if subprocess.run(command, env={**os.environ, **variables}, check=False).returncode:
        raise ToolkitError(f"pip {arguments[0]} failed, its message is above; the same command again fetches "
                           "only what is missing")


def _missing(python: str, path: Path, release: str, machine: str) -> list[str]:
    """Requirements of the folder's wheels that no wheel in it meets, by the conditions of the other machine.

    pip evaluates conditions (`; python_version < "3.11"`) for the Python and system it runs on.
    """
    script = Path(__file__).with_name("wheel_requirements.py")
    done = subprocess.run([python, script, path, release, machine], stdout=subprocess.PIPE, text=True,
                          check=True)
    return json.loads(done.stdout)


def _require_machine(path: Path, machine: str) -> None:
    """Checks MindSpore's wheel: its aarch64 one is tagged `any`."""
    for wheel in path.glob("mindspore-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if ".so" in name]
            found = Counter(binaries.machine_of_header(archive.open(name).read(20)) for name in names)
        found.pop(None, None)
        if found and (other := found.most_common(1)[0][0]) != machine:
            wheel.unlink()
            raise ToolkitError(f"{wheel.name} holds binaries for {other}, not for {machine}, and was removed")
