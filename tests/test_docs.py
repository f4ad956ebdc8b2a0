"""What comments and READMEs refer to is in the repository: traps, files, rooms, and private names."""

import ast
import re

import pytest

from research_internlm.__main__ import COMMANDS
from tests.helpers.commands import ROOT

FOLDERS = ("research_internlm", "preprocess", "scripts", "tests", "benchmarks", "yaml", "docs")
TEXTS = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")
                               if path.suffix in (".py", ".sh", ".yaml", ".md"))]
TRAPS = (ROOT / "docs/traps.md").read_text(encoding="utf-8")


def anchors():
    """Anchors as GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", TRAPS, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_cited_trap_is_there():
    cited = {(path.name, anchor) for path in TEXTS
             for anchor in re.findall(r"traps\.md#([\w-]+)|\]\(#([\w-]+)\)", path.read_text(encoding="utf-8"))
             for anchor in filter(None, anchor)}
    assert len(cited) > 10
    assert [(name, anchor) for name, anchor in cited if anchor not in anchors()] == []


def test_no_comment_cites_what_is_not_in_the_repository():
    citation = re.compile(r"(?i)\((?:contest )?notes[,:)]|notes/\w+\.md|\btrap \d|DESIGN\.md")
    assert [path.name for path in TEXTS if path.name != "test_docs.py"
            and citation.search(path.read_text(encoding="utf-8"))] == []


def test_files_named_in_the_traps_exist():
    named = re.findall(r"\b(?:research_internlm|preprocess|tests)/[\w/]+\.py", TRAPS)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_private_imports_are_listed_with_the_traps():
    found = {}
    for path in (*(ROOT / "research_internlm").rglob("*.py"), *(ROOT / "preprocess").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(("mindspore", "mindformers")):
                words = [*node.module.split("."), *(alias.name for alias in node.names)]
                if any(word.startswith("_") for word in words):
                    found[node.module] = path
    assert len(found) >= 3
    section = TRAPS[TRAPS.index("## Private names"):]
    for module, path in found.items():
        assert f"`{module}`" in section and path.relative_to(ROOT).as_posix() in section, (module, path)


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_the_readmes_name_every_folder_and_command(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    rooms = sorted(path.parent.name for folder in ("research_internlm", "preprocess")
                   for path in (ROOT / folder).glob("*/__init__.py"))
    assert [room for room in rooms if not re.search(rf"^ +{room}/ ", text, re.MULTILINE)] == []
    assert [command for command in COMMANDS if f"`{command}`" not in text] == []
    paths = re.findall(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\w", text)
    written = {"yaml/my_run.yaml"}  # by a command shown there
    assert [path for path in paths if path not in written and not (ROOT / path).exists()
            and not any(ROOT.glob(f"{path}*"))] == []
