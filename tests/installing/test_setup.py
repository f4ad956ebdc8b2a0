"""`bash scripts/setup.sh`: every decision, with Pythons that are stand-ins."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from research_internlm.installing import __main__ as setup
from research_internlm.installing import interpreters
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT
from tests.helpers.stand_in_python import HERE, MACHINE_NUMBERS, add_package, stand_in_python

OTHER = next(name for name in MACHINE_NUMBERS if name != HERE)


class Machine:
    """A machine of stand-ins: PATH is its folder bin, the environment is its folder venv."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.venv, self._patch, self._capsys = folder, folder / "venv", monkeypatch, capsys
        monkeypatch.setattr(interpreters, "PLACES", (str(folder / "opt/*/bin"),))
        for name in ("PYTHON", "CONDA_PREFIX", "WHEELS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("VENV", str(self.venv))
        monkeypatch.setenv("PATH", str(folder / "usr/bin"))

    def set_up(self, *arguments, **variables):
        """Runs the set-up; returns what it printed."""
        with self._patch.context() as patch:
            patch.setattr(sys, "argv", ["setup.sh", *arguments])
            for name, value in variables.items():
                patch.setenv(name, str(value))
            setup.main()
        return self._capsys.readouterr().out

    def refused(self, *arguments, **variables):
        """Runs a set-up that must fail before pip; returns its message."""
        before = self.pip()
        with pytest.raises(ToolkitError) as error:
            self.set_up(*arguments, **variables)
        assert self.pip() == before
        return str(error.value)

    def pip(self):
        """What pip was asked, line by line."""
        log = self.venv / "pip.log"
        return log.read_text().splitlines() if log.exists() else []

    def own(self):
        """Names of what was installed into the environment itself."""
        return sorted(path.name for path in (self.venv / "site").glob("*.dist-info"))


@pytest.fixture
def machine(tmp_path, monkeypatch, capsys):
    return Machine(tmp_path, monkeypatch, capsys)


def image(prefix, mindspore="2.9.0", mindformers="1.9.0", libraries=HERE, **facts):
    """A Python that has MindSpore and MindFormers, as an official image's."""
    python = stand_in_python(prefix, **facts)
    for name, version in (("mindspore", mindspore), ("mindformers", mindformers)):
        if version:
            add_package(prefix / "site", name, version, libraries)
    return python


def test_nothing_there_the_newest_pair_is_installed_and_the_second_time_nothing(machine):
    stand_in_python(machine.folder / "usr")
    out = machine.set_up()
    first = out.splitlines()[0]
    assert "gets MindSpore 2.9.0 and MindFormers 1.9.0 of its own" in first
    assert "no Python here has a supported MindSpore to share" in first
    assert "include-system-site-packages = false" in (machine.venv / "pyvenv.cfg").read_text()
    assert machine.pip() == ["--disable-pip-version-check install --quiet -e .[dev] mindspore==2.9.0 "
                             "mindformers==1.9.0"]
    again = machine.set_up()
    assert again == f"Set-up: {machine.venv} is complete (Python 3.11, MindSpore 2.9.0, MindFormers 1.9.0)\n"
    assert len(machine.pip()) == 1


def test_an_image_s_pair_is_used_and_only_what_is_missing_is_installed(machine):
    python = image(machine.folder / "usr")
    out = machine.set_up()
    assert f"uses MindSpore 2.9.0 of {python}: it is there already" in out.splitlines()[0]
    assert "include-system-site-packages = true" in (machine.venv / "pyvenv.cfg").read_text()
    assert machine.own() == ["research_internlm-0.1.0.dist-info"]
    assert f"MindSpore from {machine.folder}/usr/site/mindspore" in machine.set_up()
    assert len(machine.pip()) == 1


def test_the_pair_may_be_another_python_s(machine):
    stand_in_python(machine.folder / "usr", version=(3, 9, 9))
    stand_in_python(machine.folder / "opt/empty", "python3.11")
    older = image(machine.folder / "opt/older", "2.7.2", "1.8.0", name="python3.11", version=(3, 10, 1))
    assert f"uses MindSpore 2.7.2 of {older}" in machine.set_up()
    shutil.rmtree(machine.venv)
    conda = image(machine.folder / "conda", name="python")  # newer than the one that is found first
    assert f"uses MindSpore 2.9.0 of {conda}" in machine.set_up(CONDA_PREFIX=machine.folder / "conda")


def test_mindspore_alone_gets_the_mindformers_of_its_pair(machine):
    image(machine.folder / "usr", "2.7.2", None)
    machine.set_up()
    assert "mindspore==2.7.2 mindformers==1.8.0" in machine.pip()[0]
    assert machine.own() == ["mindformers-1.8.0.dist-info", "research_internlm-0.1.0.dist-info"]


def test_own_installs_a_second_one_and_is_remembered(machine):
    image(machine.folder / "usr", "2.7.2", "1.8.0")
    assert "--own was given" in machine.set_up("--own")
    assert "mindspore-2.9.0.dist-info" in machine.own()
    assert "is complete" in machine.set_up()  # as the other scripts call it


def test_pair_chooses_and_is_remembered(machine):
    image(machine.folder / "usr")
    out = machine.set_up("--pair", "1.8.0")
    assert "no Python here has MindSpore 2.7.2 to share" in out and "has MindSpore 2.9.0" in out
    assert "mindspore-2.7.2.dist-info" in machine.own()
    assert "is complete" in machine.set_up()
    assert "hyper_parallel" in machine.refused("--pair", "2.0.0")


@pytest.mark.parametrize("found", [
    {"mindspore": "2.10.0", "mindformers": "2.0.0"},  # outside the window
    {"libraries": OTHER},  # the `any` wheel, installed on another machine
])
def test_what_cannot_be_shared_is_not(machine, found):
    image(machine.folder / "usr", **found)
    assert "of its own" in machine.set_up()
    assert "mindspore-2.9.0.dist-info" in machine.own()


def test_the_packages_of_a_virtual_environment_cannot_be_shared(machine):
    base = stand_in_python(machine.folder / "opt/base")
    subprocess.run([base, "-m", "venv", machine.folder / "usr"], check=True)
    (machine.folder / "usr/bin/python").rename(machine.folder / "usr/bin/python3")
    add_package(machine.folder / "usr/site", "mindspore", "2.9.0")
    assert "of its own" in machine.set_up()


@pytest.mark.parametrize("facts, words", [
    ({"system": "Darwin", "machine": "arm64"}, "64 bits on Darwin arm64"),
    ({"system": "Windows", "machine": "AMD64"}, "64 bits on Windows AMD64"),
    ({"machine": "riscv64"}, "64 bits on Linux riscv64"),
    ({"bits": 32}, "32 bits on Linux"),
    ({"libc": ""}, "without glibc"),
    ({"libgomp": False}, "without libgomp.so.1, which MindSpore needs: install the package libgomp1"),
    ({"version": (3, 9, 2)}, "version 3.9.2, not 3.10 to 3.12"),
    ({"version": (3, 13, 0)}, "version 3.13.0"),
])
def test_a_system_without_packages_is_refused_before_anything_is_made(machine, facts, words):
    image(machine.folder / "usr", **facts)
    assert words in machine.refused() and not machine.venv.exists()


def test_python_is_the_one_that_is_taken(machine):
    image(machine.folder / "usr")
    named = stand_in_python(machine.folder / "mine", version=(3, 12, 1))
    assert f"with {named} (Python 3.12)" in machine.set_up(PYTHON=named)
    assert "none runs here" in machine.refused("--own", PYTHON=machine.folder / "nowhere")


def test_a_python_that_went_away_with_a_restart_is_replaced_without_pip(machine):
    stand_in_python(machine.folder / "usr", "python3.11")
    machine.set_up()
    before = machine.pip()
    shutil.rmtree(machine.folder / "usr")
    assert "no Python 3.10 to 3.12" in machine.refused()
    later = stand_in_python(machine.folder / "opt/later")  # another place, another name
    assert "is complete again" in machine.set_up() and machine.pip() == before
    assert os.readlink(machine.venv / "bin/python") == str(later)


def test_so_is_one_whose_packages_are_used(machine):
    image(machine.folder / "usr", name="python3")
    image(machine.folder / "usr", name="python3.11")
    machine.set_up(PYTHON=machine.folder / "usr/bin/python3.11")
    (machine.folder / "usr/bin/python3.11").unlink()
    image(machine.folder / "other")  # found first, but its packages are not those that were used
    both = f"{machine.folder}/other/bin:{machine.folder}/usr/bin"
    assert "is complete again" in machine.set_up(PATH=both)
    assert os.readlink(machine.venv / "bin/python") == str(machine.folder / "usr/bin/python3")
    assert "= true" in (machine.venv / "pyvenv.cfg").read_text()


def test_another_release_of_python_after_a_restart_makes_the_environment_anew(machine):
    stand_in_python(machine.folder / "usr")
    machine.set_up()
    (machine.venv / "old").touch()
    shutil.rmtree(machine.folder / "usr")
    stand_in_python(machine.folder / "usr", "python3.12", version=(3, 12, 0))
    assert "of its own" in machine.set_up()
    assert not (machine.venv / "old").exists() and len(machine.pip()) == 1


def test_packages_that_went_with_the_system_s_python_are_installed_again(machine):
    image(machine.folder / "usr")
    machine.set_up()
    shutil.rmtree(machine.folder / "usr/site/mindformers")
    shutil.rmtree(machine.folder / "usr/site/mindformers-1.9.0.dist-info")
    (machine.venv / "kept").touch()
    machine.set_up()
    assert "mindformers-1.9.0.dist-info" in machine.own() and (machine.venv / "kept").exists()


def test_an_environment_that_works_is_kept_when_the_requirements_change(machine):
    stand_in_python(machine.folder / "usr", version=(3, 11, 4))
    machine.set_up()
    record = json.loads((machine.venv / ".installed-from").read_text())
    (machine.venv / ".installed-from").write_text(json.dumps({**record, "sources": "others"}))
    stand_in_python(machine.folder / "new", version=(3, 12, 4))
    machine.set_up(PATH=f"{machine.folder}/new/bin:{machine.folder}/usr/bin")
    assert len(machine.pip()) == 2
    assert "Python 3.11" in machine.set_up()


def test_an_installation_that_fails_is_continued(machine):
    stand_in_python(machine.folder / "usr")
    with pytest.raises(ToolkitError, match=r"pip could not install into .*WHEELS=DIR"):
        machine.set_up(STAND_IN_PIP="fails")
    assert "Ready" in machine.set_up() and len(machine.pip()) == 2


def test_a_folder_with_other_things_is_left_alone(machine):
    stand_in_python(machine.folder / "usr")
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").write_text("years")
    assert "holds what this set-up did not make" in machine.refused()
    assert (machine.venv / "thesis.txt").read_text() == "years"


def test_any_python_starts_the_script(tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")  # too old
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "python3.12").symlink_to(sys.executable)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(tmp_path), "VENV": str(tmp_path / "none")}
    done = subprocess.run(["bash", ROOT / "scripts/setup.sh", "--pair", "7.0.0"], env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: --pair 7.0.0: MindFormers 7.0.0 is not")


def test_the_scripts_use_the_same_environment(tmp_path):
    (tmp_path / "env/bin").mkdir(parents=True)
    program = f"set -eu; source {ROOT}/scripts/environment.sh; echo $PATH"
    for venv, first in ((tmp_path / "env", str(tmp_path / "env/bin")), (tmp_path / "none", "/usr/bin")):
        done = subprocess.run(["bash", "-c", program], env={"PATH": "/usr/bin:/bin", "VENV": str(venv)},
                              cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split(":")[0] == first
