"""The errors that the notebook's page explains are those that the toolkit prints."""

import ast
import re

from tests.helpers.commands import ROOT
from tests.helpers.documents import Document

TABLE_ROW = re.compile(r"^\| `([^|]+)` \|", re.MULTILINE)


def printed_texts():
    """Every piece of text in the sources; of an f-string, the pieces between its values."""
    for path in (*(ROOT / "research_internlm").rglob("*.py"), *(ROOT / "preprocess").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"\{[^{}]*\}", "\n", node.value)


def test_the_ten_errors_are_the_toolkit_s_own_words():
    errors = TABLE_ROW.findall(Document.read(ROOT / "docs/ascend_notebook.md").text)
    assert len(errors) == 10
    texts = "\n".join(printed_texts())
    pieces = [piece.strip() for error in errors for piece in error.split("...") if len(piece) > 4]
    assert [piece for piece in pieces if piece not in texts] == []
