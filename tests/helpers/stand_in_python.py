"""Pythons that answer what set-up asks, make environments and "install", quickly and without a network."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.helpers.elf import elf

MACHINE_NUMBERS = {"x86_64": 62, "aarch64": 183}
HERE = os.uname().machine

# argv[0] is the path it was called by, so that a symbolic link in an environment's bin/ finds its own folder.
_PROGRAM = """#!{python} -S
import json, os, pathlib, sys
sys.path.insert(0, {root!r})
from tests.helpers.stand_in_python import add_package, packages_in
prefix = pathlib.Path(sys.argv[0]).absolute().parent.parent
settings = prefix / "pyvenv.cfg"
text = settings.read_text() if settings.exists() else ""
base = pathlib.Path(text.splitlines()[0].split(" = ")[1]).parent if text else prefix
sites = [prefix / "site"] + ([base / "site"] if "true" in text else [])
arguments = sys.argv[1:]
if arguments[0] == "-c":
    facts = json.loads((base / "facts.json").read_text())
    packages = dict(item for site in reversed(sites) for item in packages_in(site).items())
    print(json.dumps(dict(facts, executable=sys.argv[0], is_venv=bool(text), packages=packages,
                          path=[str(site) for site in sites])))
elif arguments[:2] == ["-m", "venv"]:
    folder = pathlib.Path(arguments[-1])
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    sees = "include-system-site-packages = " + str("--system-site-packages" in arguments).lower()
    (folder / "pyvenv.cfg").write_text("home = %s/bin\\n%s\\n" % (base, sees))
    (folder / "bin/python").symlink_to(base / "bin" / pathlib.Path(sys.argv[0]).name)
elif arguments[:2] == ["-m", "pip"]:
    with open(prefix / "pip.log", "a") as log:
        log.write(" ".join(arguments[2:]) + "\\n")
    if os.environ.get("STAND_IN_PIP") == "fails":
        sys.exit(1)
    for requirement in arguments:
        name, equal, version = requirement.partition("==")
        if equal and [version] != [found[site][0] for found in map(packages_in, sites) for site in found
                                   if site == name][:1]:
            add_package(prefix / "site", name, version)
    add_package(prefix / "site", "research_internlm", "0.1.0",
                requires=["mindspore>=2", "mindformers (>=1)", "pandas; extra == 'dev'"])
"""


def stand_in_python(prefix: Path, name: str = "python3", version: tuple[int, ...] = (3, 11, 4),
                    **facts: object) -> Path:
    """A Python in `prefix/bin`; its packages are in `prefix/site`.

    Args:
        prefix: Its folder.
        name: The program's name.
        version: Its version.
        **facts: What else of its answer differs from a good one of this machine: system, libc, ...
    """
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    answer = {"version": version, "system": "Linux", "machine": HERE, "bits": 64, "libc": "glibc",
              "libgomp": True, **facts}
    (prefix / "facts.json").write_text(json.dumps(answer))
    program = prefix / "bin" / name
    program.write_text(_PROGRAM.format(python=sys.executable, root=str(Path(__file__).parents[2])))
    program.chmod(0o755)
    return program


def add_package(site: Path, name: str, version: str, machine: str = HERE, requires: list[str] = ()
                ) -> None:
    """An installed package with a library of a machine, as the stand-in's pip and an image have it."""
    (site / name).mkdir(parents=True, exist_ok=True)
    (site / name / "__init__.py").touch()
    (site / name / "_c.so").write_bytes(elf(MACHINE_NUMBERS[machine]))
    information = site / f"{name}-{version}.dist-info"
    information.mkdir(exist_ok=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    (information / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


def packages_in(site: Path) -> dict[str, tuple[str, str]]:
    """Version and folder of MindSpore and MindFormers in a folder, as the set-up's probe tells them."""
    return {name: (information.name[len(name) + 1:-len(".dist-info")], str(site / name))
            for name in ("mindspore", "mindformers") for information in site.glob(f"{name}-*.dist-info")}
