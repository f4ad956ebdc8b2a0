"""Every command line of the documents is one that its command accepts; those of README.md that can run do.

A line is handed to its command's own parser, `bash scripts/...` through the script. Lines that need weights,
OBS or an NPU are only parsed.
"""

import importlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from research_internlm import recipes
from research_internlm.planning import points, probe
from research_internlm.shared import schema
from research_internlm.shared.files import write_json
from tests.helpers import command_lines
from tests.helpers.commands import ROOT, exam_items
from tests.helpers.documents import Document
from tests.helpers.finished_run import complete_run  # noqa: F401 (fixture)
from tests.helpers.warm import run_warm

DOCUMENTS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md")
                                         if not path.stem.endswith("_zh"))]
OWN = ("bash", "python", "internlm")


def lines_of(path):
    """Command lines of a document; of arm64.md, which sets up another machine, only the toolkit's own."""
    document = Document.read(path)
    for line in (*document.commands(), *document.inline_commands()):
        words = command_lines.words_of(line)
        if words[:1] != ["export"] and words[1:3] != ["-m", "pytest"] and (
                path.stem != "arm64" or words[0] in OWN):
            yield line


LINES = list(dict.fromkeys(line for path in DOCUMENTS for line in lines_of(path)))
# Lines of README.md that need no weights, network or NPU: command -> how often README.md shows it.
RUNS = {"mmlu_cmmlu_csv2json": 1, "data_preprocess": 1, "alpaca_data_preprocess_v1": 3, "assistant_data": 1,
        "doctor": 2, "evaluate": 1, "plan": 1, "logs": 1, "score": 1, "report": 1, "submit": 1}
WRITTEN = ("--output", "--output_file", "--output_dir")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return tmp_path_factory.mktemp("stand_in")


@pytest.mark.parametrize("line", LINES)
def test_the_command_accepts_the_line(line, stand_in, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = command_lines.words_of(line)
    if extra := re.fullmatch(r"(?:\.venv/bin/)?pip install -e '\.\[(\w+)\]'", line):
        assert f"\n{extra[1]} =\n" in (ROOT / "setup.cfg").read_text()
        return
    assert words[0] in (*OWN, "cd"), line
    if words[0] == "cd" or (words[0] == "internlm" and len(words) == 2):
        return
    if words[0] == "bash" and words[1] in command_lines.READ_BY_BASH:
        script = (ROOT / words[1]).read_text()
        assert [word for word in words[2:] if word.startswith("--") and word not in script] == []
        return
    with pytest.raises(command_lines.Parsed):
        command_lines.parse(line, stand_in)


def test_a_wrong_option_is_found(stand_in, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for line in ("bash scripts/train_msrun.sh yaml/lora_finetune.yaml 4 -- --train_data x --output_dir o",
                 "bash scripts/rehearse.sh yaml/lora_finetune.yaml 4 -- --overlays x",
                 "python research_internlm/logs.py output/run1 --out x", "bash scripts/setup.sh --download"):
        with pytest.raises(SystemExit):
            command_lines.parse(line, stand_in)
        assert "usage:" in capsys.readouterr().err


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, demo_data, complete_run):  # noqa: F811
    """A folder with what the README's lines name: exam csv, tokenizer, SQuAD, predictions, a probe, a run."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, source in {"mmlu": demo_data / "mmlu", "cmmlu": demo_data / "cmmlu", "yaml": ROOT / "yaml",
                         "tokenizer.model": demo_data / "tokenizer.model",
                         "dev-v1.1.json": demo_data / "squad.json"}.items():
        (folder / name).symlink_to(source)
    write_json(folder / "general.json", exam_items(demo_data))
    shutil.copytree(complete_run, folder / "output/run1")
    for path in (folder / "output/run1").glob("report*"):
        path.unlink()
    squad = json.loads((demo_data / "squad.json").read_text())
    write_json(folder / "predictions.json", {
        question["id"]: question["answers"][0]["text"] for article in squad["data"]
        for paragraph in article["paragraphs"] for question in paragraph["qas"]})
    recipe = recipes.resolve(ROOT / "yaml/lora_finetune_packed.yaml")
    write_json(folder / "probe.json", schema.to_json(probe.Probe(
        recipe=recipe, recipe_sha256=probe.recipe_sha256(recipe, 1), workers=1, device="made up",
        memory="device", versions={}, date="2026-11-26",
        points=[point for point in points.TABLE if point.shape.packed])))
    return folder


def run(line, folder):
    """Runs a line in `folder`; the converter, which uses MindSpore, in a process of its own."""
    module, arguments = command_lines.module_and_arguments(line, folder / "stand_in")
    if module.endswith("alpaca_data_preprocess_v1"):
        done = run_warm("-m", module, *arguments, check=False, place=folder)
        return done.returncode, done.stdout + done.stderr
    return importlib.import_module(module).main(arguments), ""


def runnable_lines():
    """(module's last name, line) of README.md's lines that RUNS names; detection has a demo in CI."""
    for line in Document.read(ROOT / "README.md").commands():
        words = command_lines.words_of(line)
        if words[0] not in OWN:
            continue
        name = Path(words[1]).stem
        if words[0] == "bash" and words[1] not in command_lines.READ_BY_BASH:
            script = (ROOT / words[1]).read_text()
            name = Path(re.search(r"^exec .*/(\w+\.py)", script, re.MULTILINE)[1]).stem
        if name in RUNS and (name != "evaluate" or "squad-score" in words) and "detection" not in line:
            yield name, line


@pytest.mark.slow
def test_the_lines_that_need_no_weights_and_no_npu_run(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    ran = Counter()
    for name, line in runnable_lines():
        code, said = run(line, workplace)
        assert code == 0 or name == "doctor", f"{line}: {said}"  # which may find a problem here
        ran[name] += 1
        words = command_lines.words_of(line)
        for option in set(WRITTEN) & set(words):
            assert Path(words[words.index(option) + 1]).exists(), line
    assert ran == RUNS
    assert Path("NAME.zip").is_file() and Path("output/run1/report.md").is_file()
