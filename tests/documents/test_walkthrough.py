"""docs/walkthrough.ipynb runs from top to bottom, and is kept without outputs."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.commands import ROOT

NOTEBOOK = ROOT / "docs/walkthrough.ipynb"
# Before the first cell: what loads MindFormers runs as a fork of one process, see warm.py.
WARM = """
import subprocess
from tests.helpers.warm import run_warm
start = subprocess.run
subprocess.run = lambda words, **options: run_warm(*words[1:], check=False) if words[1].endswith(
    ("alpaca_data_preprocess_v1.py", "run_internlm.py", "evaluate.py")) else start(words, **options)
"""


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_valid_and_stores_no_output():
    book = read()
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count] == []
    assert {"ipynb_checkpoints", str(ROOT)} & set(NOTEBOOK.read_text().split('"')) == set()


@pytest.mark.model
@pytest.mark.slow
def test_it_runs_and_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it puts everything that it makes
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ["PYTHONPATH"])))
    book = read()
    book.cells.insert(0, nbformat.v4.new_code_cell(WARM))
    NotebookClient(book, timeout=1200, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.get("text", "") for output in outputs)
    assert "243 rows in = 243 items + 0 dropped" in printed and "The right option is" in printed
    assert printed.count("MMLU accuracy") == 2
    assert str(ROOT) not in printed and str(tmp_path) not in printed
    assert not list((ROOT / "docs").glob("output*")), os.listdir(ROOT / "docs")
