"""What is imported is what is checked and recorded: stand-ins on PYTHONPATH, through whole commands."""

import configparser
import os
import subprocess
import sys

import pytest

from research_internlm.shared import versions
from tests.helpers.commands import ROOT, assert_user_error, run_script


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes a folder with a package of this name and puts it in front of the import path of new processes."""
    def make(name):
        package = tmp_path / "source" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('the stand-in was imported')\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), str(ROOT)]))
        return package
    return make


def assert_refused(done, package):
    assert_user_error(done, f"{package.name} would be imported from {package / '__init__.py'}",
                      f"not the installed {package.name} ", f"take {package.parent} off PYTHONPATH")
    assert "stand-in was imported" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["mindformers", "mindspore"])
def test_a_launch_refuses_another_copy_than_the_installed_one(stand_in, tmp_path, name):
    package = stand_in(name)
    assert_refused(run_script(
        "research_internlm/launch.py", "yaml/lora_finetune.yaml", "2", "--", "--overlay",
        "yaml/overlays/cpu_tiny.yaml", "--train_dataset", tmp_path / "no", "--output_dir", tmp_path / "run",
        check=False), package)
    assert not (tmp_path / "run/msrun_log").exists()


def test_a_worker_and_an_evaluation_refuse_it(stand_in, tmp_path):
    package = stand_in("mindformers")
    assert_refused(run_script(
        "research_internlm/run_internlm.py", "--config", "yaml/lora_finetune.yaml", "--use_parallel", "False",
        "--output_dir", tmp_path / "run", check=False), package)
    (tmp_path / "b.ckpt").write_bytes(b"weights")
    for output in (("--output", tmp_path / "o.json"), ("--run_dir", tmp_path / "run")):
        assert_refused(run_script(
            "research_internlm/evaluate.py", "squad", "--config", "yaml/predict_eval_squad.yaml",
            "--load_checkpoint", tmp_path / "b.ckpt", "--model_file", "m", "--squad_file", "s",
            "--device_target", "CPU", *output, check=False), package)


def test_the_installed_packages_are_no_problem():
    assert list(versions.import_problems()) == []
    found = versions.imported_from()
    assert set(found) == {"research_internlm", "mindspore", "mindformers"}
    assert found["research_internlm"] == str(ROOT / "research_internlm/__init__.py")


@pytest.mark.parametrize(("version", "wrong"), [(None, False), ("9.9.9", True)])
def test_another_copy_of_the_toolkit_is_refused_only_with_another_version(tmp_path, version, wrong):
    copy = tmp_path / "copy/research_internlm"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text(f"__path__.append({str(ROOT / 'research_internlm')!r})\n")
    if version:
        (copy.parent / "setup.cfg").write_text(f"[metadata]\nversion = {version}\n")
    program = ("from research_internlm.shared import versions\n"
               "print(versions.imported_from()['research_internlm'], len(list(versions.import_problems())))")
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(copy.parent)},
                          cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(copy / "__init__.py"), str(int(wrong))]


def test_the_requirements_are_the_window_s_ends():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    options = setup["options"]
    newest, oldest = versions.PAIRS[0], versions.PAIRS[-1]
    required = options["install_requires"].split()
    assert f"mindspore>={oldest.mindspore},<={newest.mindspore}" in required
    assert f"mindformers>={oldest.mindformers},<={newest.mindformers}" in required
    first, last = versions.PYTHONS[0], versions.PYTHONS[-1]
    assert options["python_requires"] == f">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"
