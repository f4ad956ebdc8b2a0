"""The console script `internlm`: it lists every command, runs them, and knows no other."""

import ast
import configparser
import importlib.util
import subprocess
import sys

import pytest

from research_internlm import __main__ as internlm
from tests.helpers.commands import ROOT, assert_user_error

FILES = {path.stem: path for folder in ("research_internlm", "preprocess")
         for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("__")}


def run(*words):
    return subprocess.run([sys.executable, "-m", "research_internlm", *words], cwd=ROOT, capture_output=True,
                          text=True, check=False)


def test_every_command_is_listed_with_what_it_does(capsys):
    assert set(FILES) == {module.rpartition(".")[2] for module in internlm.COMMANDS.values()}
    assert internlm.main([]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[:2] == "  ")
    assert listed.keys() == internlm.COMMANDS.keys()
    for name, module in internlm.COMMANDS.items():
        first = ast.get_docstring(ast.parse(FILES[module.rpartition(".")[2]].read_text())).splitlines()[0]
        assert listed[name] == first.removeprefix("Entry point: ") and first.endswith(".")
    assert internlm.main(["--help"]) == 0


def test_the_list_loads_no_command():
    script = ("import sys; from research_internlm import __main__ as internlm; internlm.main([]); "
              "print([m for m in internlm.COMMANDS.values() if m in sys.modules], 'numpy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("[] False\n")


@pytest.mark.slow
def test_a_command_runs_as_by_its_path():
    for name in ("score", "preprocess", "data_preprocess", "upload"):  # by name, by file, with a script
        usage = run(name, "--help").stdout.split("[-h]")[0]
        assert usage == f"usage: internlm {'preprocess' if name == 'data_preprocess' else name} "
    done = run("score", "--accuracy", "0.9685", "--trainable", "16777216")
    assert done.returncode == 0 and "score 0.9" in done.stdout
    assert_user_error(run("report", "/nowhere"), "/nowhere")


@pytest.mark.parametrize(("word", "near"), [
    ("plam", "plan"), ("evaluation", "evaluate"), ("alpaca_data_preprocess", "alpaca_data_preprocess_v1"),
    ("qqq", "internlm alone")])
def test_an_unknown_command_is_answered_with_near_names(capsys, word, near):
    assert internlm.main([word]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: '{word}' is not a command") and near in error and error.count("\n") == 1


def test_the_console_script_is_this_module():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, target = setup["options.entry_points"]["console_scripts"].strip().split(" = ")
    module, function = target.split(":")
    assert name == "internlm" and importlib.util.find_spec(module).origin == internlm.__file__
    assert getattr(internlm, function) is internlm.main


@pytest.mark.parametrize("path", [
    *FILES.values(), *(path for folder in ("scripts/demo", "benchmarks")
                       for path in (ROOT / folder).glob("*.py")
                       if "def main" in path.read_text(encoding="utf-8"))], ids=lambda path: path.name)
def test_every_command_has_the_same_main(path):
    text = path.read_text()
    main, = (ast.unparse(node) for node in ast.parse(text).body
             if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert main.startswith("def main(argv: list[str] | None=None) -> int:")
    assert 'if __name__ == "__main__":\n    run_main(main)\n' in text
