"""Makes, repairs and fills an environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from research_internlm.installing import ROOT, decision, interpreters, wheels
from research_internlm.installing.environment import Environment, Request, sources
from research_internlm.shared import binaries, versions
from research_internlm.shared.errors import ToolkitError

_PROJECT = "research-internlm"


def relink(venv: Environment, request: Request, environment: Mapping[str, str]) -> bool:
    """Gives an environment whose Python went away with a restart another one of the same release.

    Returns:
        Whether it is complete now. Needs no network.
    """
    if not venv.is_installed(request) or venv.runs():
        return False
    record = venv.record()
    for python in interpreters.find(environment, venv.folder):
        seen = python.packages.get("mindspore", ("", ""))[1]
        fits = not python.problem and python.release == record["release"]
        if fits and record["shared"] in (None, seen):
            for link in (venv.folder / "bin").glob("python*"):
                link.unlink()
            _make(venv, python, record["shared"] is not None, "--without-pip")
            return venv.is_complete(request)
    return False


def install(venv: Environment, request: Request, folder: wheels.WheelFolder | None,
            environment: Mapping[str, str]) -> None:
    """Decides, says what and why, and installs.

    Args:
        venv: The environment.
        request: What was asked.
        folder: Wheels to install from instead of the package index.
        environment: Variables that name Pythons, see `interpreters.candidates`.

    Raises:
        ToolkitError: No Python is suitable, the wheels are for another machine, or pip fails.
    """
    pair = decision.pair_named(request.pair) if request.pair else folder and folder.pair
    current = interpreters.ask(str(venv.python))
    found = interpreters.find(environment, venv.folder)
    if current and not environment.get("PYTHON"):
        found.insert(0, current)
    plan = decision.decide(found, pair, request.own, folder and folder.release)
    if folder and folder.machine != plan.python.machine:
        raise ToolkitError(f"WHEELS={folder.path} is for {folder.machine}, this machine is "
                           f"{plan.python.machine}: make one with --platform linux_{plan.python.machine}")
    what = (f"uses MindSpore {plan.pair.mindspore} of {plan.python.executable}" if plan.shared else
            f"gets MindSpore {plan.pair.mindspore} and MindFormers {plan.pair.mindformers} of its own, about "
            f"3.4 GB, with {plan.python.executable} (Python {plan.python.release})")
    print(f"Set-up: {venv.folder} {what}: {plan.reason}", flush=True)
    _prepare(venv, plan, current)
    source = ("--no-index", "--find-links", folder.path) if folder else ()
    if not _pip(venv, "install", "--quiet", *source, "-e", ".[dev]", f"mindspore=={plan.pair.mindspore}",
                    f"mindformers=={plan.pair.mindformers}", offline=folder is not None):
        raise ToolkitError(f"pip could not install into {venv.folder}, its message is above; on a machine "
                           "without a network use WHEELS=DIR (bash scripts/setup.sh --help)")
    _complete(venv, request, plan)
    print(f"Ready: {venv.summary()}")


def _prepare(venv: Environment, plan: decision.Decision, current: interpreters.Interpreter | None) -> None:
    """Makes the folder an environment of this plan; keeps one that fits.

    Raises:
        ToolkitError: The folder holds something that no set-up made.
    """
    if current and current.release == plan.python.release and _sees_system(venv) == plan.shared and (
            not plan.shared or current.packages.get("mindspore") == plan.python.packages["mindspore"]):
        return
    if venv.folder.exists():
        if any(venv.folder.iterdir()) and not venv.record_file.is_file():
            raise ToolkitError(f"VENV={venv.folder} holds what this set-up did not make: name an empty "
                               "folder or a new one")
        for old in venv.folder.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    _make(venv, plan.python, plan.shared)


def _sees_system(venv: Environment) -> bool:
    text = (venv.folder / "pyvenv.cfg").read_text(encoding="utf-8")
    return re.search(r"^include-system-site-packages *= *true", text, re.MULTILINE) is not None


def _make(venv: Environment, python: interpreters.Interpreter, shared: bool, *options: str) -> None:
    venv.folder.mkdir(parents=True, exist_ok=True)
    venv.record_file.touch()  # ours from now on, even if the installation does not come to its end
    command = [python.executable, "-m", "venv", *(["--system-site-packages"] if shared else []), *options]
    done = subprocess.run([*command, venv.folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolkitError(f"{python.executable} -m venv failed ({(done.stdout + done.stderr).strip()}); "
                           "on Debian and Ubuntu it needs the package python3-venv")


def _pip(venv: Environment, *arguments: object, offline: bool = False) -> bool:
    """Runs the environment's pip; whether it succeeded. Offline, no index and no setting is used."""
    clean = {name: value for name, value in os.environ.items()
             if name not in ("PYTHONPATH", "PYTHONHOME") and not (offline and name.startswith("PIP_"))}
    if offline:
        clean["PIP_CONFIG_FILE"] = os.devnull
    command = [venv.python, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return not subprocess.run(command, cwd=ROOT, env=clean, check=False).returncode


def _complete(venv: Environment, request: Request, plan: decision.Decision) -> None:
    """Writes down what was installed; from now on the environment is complete.

    Raises:
        ToolkitError: MindSpore is for another machine; it is uninstalled again.
    """
    made = interpreters.ask(str(venv.python))
    if not made or set(made.packages) != set(versions.PYTHON_PACKAGES):
        raise ToolkitError(f"{venv.python} does not find MindSpore and MindFormers after the installation"
                           f": remove {venv.folder} and run the same command again")
    version, folder = made.packages["mindspore"]
    machine = binaries.machine_of_package(folder)
    if not plan.shared and machine not in (made.machine, None):
        _pip(venv, "uninstall", "--quiet", "--yes", "mindspore")
        raise ToolkitError(f"the MindSpore {version} that pip chose is for {machine}, this machine is "
                           f"{made.machine}: it was uninstalled again. The package index has it for "
                           "Linux x86_64 and aarch64; a wheel folder must be made for this machine "
                           f"(--download DIR --platform linux_{made.machine})")
    summary = (f"Python {made.release}, MindSpore {version}, MindFormers "
               + made.packages["mindformers"][0] + (f", MindSpore from {folder}" if plan.shared else ""))
    record = {**request._asdict(), "sources": sources(), "summary": summary, "release": made.release,
              "shared": folder if plan.shared else None, "packages": _needed_metadata(made.path)}
    part = venv.record_file.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    part.replace(venv.record_file)


def _needed_metadata(path: list[str]) -> list[str]:
    """Metadata folders of the project and everything it requires, wherever an environment finds them.

    One of them is missing when a restart took away packages of the system's Python, or a release changed.
    """
    found = {}
    for place in filter(None, path):
        for info in (*Path(place).glob("*.dist-info"), *Path(place).glob("*.egg-info")):
            found.setdefault(_normal(info.name.split("-")[0]), info)
    needed, todo = {}, [_PROJECT]
    while todo:
        name = todo.pop()
        if name in found and name not in needed:
            needed[name] = str(found[name])
            for requirement in metadata.PathDistribution(found[name]).requires or ():
                if name == _PROJECT or "extra ==" not in requirement:
                    todo.append(_normal(re.match(r"[\w.-]+", requirement)[0]))
    return sorted(needed.values())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
