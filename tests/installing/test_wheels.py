"""Wheel folders: made for another machine, and installed from with a real pip and tiny wheels."""

import json
import os
import platform
import subprocess
import sys

import pytest

from research_internlm.installing import wheel_requirements, wheels
from research_internlm.shared import versions
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT
from tests.helpers.elf import elf
from tests.helpers.stand_in_python import HERE, MACHINE_NUMBERS
from tests.helpers.tiny_wheels import make_wheel

OTHER = next(name for name in MACHINE_NUMBERS if name != HERE)
NEWEST = versions.PAIRS[0]


def mindspore_wheel(folder, machine):
    make_wheel(folder, "mindspore", NEWEST.mindspore,
               files={"mindspore/_c.so": elf(MACHINE_NUMBERS[machine])})


def test_conditions_are_those_of_the_other_machine(tmp_path):
    make_wheel(tmp_path, "a", "1.0", [
        "b[fast]>=2", "c; python_version < '3.11'", "d; sys_platform == 'win32'", "Pre.Release>=1",
        "e; platform_machine == 'aarch64'", "f; extra == 'test'"])
    make_wheel(tmp_path, "b", "1.9", ["g>=3; extra == 'fast'", "a; extra == 'fast'"])
    make_wheel(tmp_path, "pre-release", "1.0")
    assert wheel_requirements.missing(tmp_path, "3.11", "x86_64") == ["b>=2", "g>=3"]
    assert wheel_requirements.missing(tmp_path, "3.10", "aarch64") == ["b>=2", "c", "e", "g>=3"]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Downloads into tmp_path/w by a pip that leaves wheels of the index; returns its calls."""
    calls, index = [], {"mindspore": lambda: mindspore_wheel(tmp_path / "w", OTHER),
                        "mindformers": lambda: make_wheel(tmp_path / "w", "mindformers", "1.9.0", ["late"]),
                        "late": lambda: make_wheel(tmp_path / "w", "late", "1.5")}

    def pip(_, *arguments, **variables):
        calls.append((arguments, variables))
        for argument in map(str, arguments):
            index.get(argument.partition("=")[0].partition(">")[0], lambda: None)()
    monkeypatch.setattr(wheels, "_pip_of_its_own", lambda folder: sys.executable)
    monkeypatch.setattr(wheels, "_pip", pip)
    return calls


def test_a_download_fetches_until_nothing_is_missing(fetched, tmp_path):
    wheels.download(tmp_path / "w", NEWEST, f"linux_{OTHER}", "3.11", dict(os.environ))
    built = [arguments[-1] for arguments, variables in fetched if variables == {"CC": "false"}]
    assert built == ["jieba", "esdk-obs-python", "crcmod"]
    (first, _), (second, _) = fetched[3:]
    assert {f"mindspore=={NEWEST.mindspore}", f"mindformers=={NEWEST.mindformers}", "setuptools>=65",
            "pytest>=8", "numpy>=1.26,<2", "3.11", f"manylinux2014_{OTHER}", "--only-binary"} <= set(first)
    assert not {"mindspore>=2.7.2,<=2.9.0"} & set(first)
    assert second[-1] == "late"
    folder = wheels.open_folder(tmp_path / "w")
    assert (folder.machine, folder.release, folder.pair) == (OTHER, "3.11", NEWEST)


def test_a_download_of_the_wrong_binaries_is_not_complete(fetched, tmp_path):
    with pytest.raises(ToolkitError, match=f"mindspore-2.9.0-py3-none-any.whl holds binaries for {OTHER}"):
        wheels.download(tmp_path / "w", NEWEST, f"linux_{HERE}", "3.11", dict(os.environ))
    assert not list((tmp_path / "w").glob("mindspore*"))
    with pytest.raises(ToolkitError, match="is not a complete wheel folder"):
        wheels.open_folder(tmp_path / "w")


def test_a_download_for_a_system_without_packages_is_refused(fetched, tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")  # a Mac, which may fetch for another machine
    with pytest.raises(ToolkitError, match="no packages for arm64; for another machine add --platform"):
        wheels.download(tmp_path / "w", NEWEST, None, "3.11", dict(os.environ))
    assert not fetched
    wheels.download(tmp_path / "w", NEWEST, f"linux_{OTHER}", "3.11", dict(os.environ))


# What the project's editable installation needs of setuptools; its wheel requires the pair alone.
BUILD_BACKEND = f'''
def build_editable(folder, config_settings=None, metadata_directory=None):
    import pathlib, sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.helpers.tiny_wheels import make_wheel
    make_wheel(pathlib.Path(folder), "research-internlm", "0.1.0", ["mindspore", "mindformers"])
    return "research_internlm-0.1.0-py3-none-any.whl"


def build_wheel(*arguments):
    raise NotImplementedError
'''


@pytest.fixture
def wheel_folder(tmp_path):
    """A complete wheel folder for this Python, all of its wheels tiny; MindSpore's is for another machine."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "mindformers", NEWEST.mindformers)
    make_wheel(folder, "setuptools", "99", files={"setuptools/build_meta.py": BUILD_BACKEND.encode()})
    mindspore_wheel(folder, OTHER)
    release = "{}.{}".format(*sys.version_info)
    (folder / "wheels.json").write_text(json.dumps(
        {"machine": HERE, "python": release, "mindformers": NEWEST.mindformers}))
    return folder


def set_up(tmp_path, **variables):
    environment = {**os.environ, "PYTHON": sys.executable, "VENV": str(tmp_path / "venv"), **variables}
    return subprocess.run(["bash", ROOT / "scripts/setup.sh"], env=environment, capture_output=True,
                          text=True, check=False)


@pytest.mark.slow
def test_another_machine_s_binaries_are_undone_and_this_machine_s_are_kept(tmp_path, wheel_folder):
    found = set_up(tmp_path, WHEELS=str(wheel_folder), PIP_INDEX_URL="http://localhost:9/none")
    error = found.stderr.splitlines()[-1]
    assert found.returncode == 2, found
    assert error.startswith("error: the MindSpore 2.9.0 that pip chose is for "
                            f"{OTHER}, this machine is {HERE}"), found
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    assert (site / "mindformers").is_dir() and not (site / "mindspore").exists()
    mindspore_wheel(wheel_folder, HERE)
    found = set_up(tmp_path, WHEELS=str(wheel_folder))
    assert "Ready: Python" in found.stdout, found
    assert (site / "mindspore").is_dir()
    assert "is complete" in set_up(tmp_path).stdout  # without the folder


def test_wheels_for_another_machine_or_pair_are_refused_before_pip(tmp_path, wheel_folder):
    contents = json.loads((wheel_folder / "wheels.json").read_text())
    (wheel_folder / "wheels.json").write_text(json.dumps({**contents, "machine": OTHER}))
    found = set_up(tmp_path, WHEELS=str(wheel_folder))
    assert f"is for {OTHER}, this machine is {HERE}" in found.stderr and not (tmp_path / "venv").exists()
    (wheel_folder / "wheels.json").write_text(json.dumps({**contents, "python": "3.1"}))
    assert "no Python 3.1 that" in set_up(tmp_path, WHEELS=str(wheel_folder)).stderr
    assert "not a complete wheel folder" in set_up(tmp_path, WHEELS=str(tmp_path)).stderr
