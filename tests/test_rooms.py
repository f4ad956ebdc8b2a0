"""The house: imports run downwards only, no room imports a command, and few modules need MindSpore.

A new room gets its floor here. README.md says what each room is for.
"""

import ast
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT

FLOORS = [
    {"shared"}, {"data", "storage", "installing"}, {"recipes", "model", "preprocess", "machine"},
    {"checkpoints"}, {"runs", "inference"}, {"quantisation"},
    {"training", "evaluation", "planning", "mirroring", "serving"},
    {"launching", "contest"}, {"publishing"}, {"commands"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for folder in ("research_internlm", "preprocess") for path in (ROOT / folder).rglob("*.py")}
COMMANDS = {name for name, path in MODULES.items() if name.count(".") == 1 and path.stem != "__init__"}

# What builds or runs a network. Everything else (data up to the MindRecord writer, weights, metrics,
# planning, logs, launch, report, submission) starts without MindSpore and MindFormers.
NETWORK = ("research_internlm.inference", "research_internlm.training", "research_internlm.recipes.check",
           "research_internlm.quantisation.layer_network",
           *(f"research_internlm.model.{name}" for name in ("config", "cpu_cells", "modeling", "packed_mask",
                                                            "tokenizer")))
FORBID = """
import importlib, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mindspore", "mindformers"):
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbidden())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def room_of(name):
    """The room of a module or of something in it; None outside the house and for the packages themselves."""
    parts = name.split(".")
    if ".".join(parts[:2]) in COMMANDS:
        return "commands"
    if parts[0] == "research_internlm" and len(parts) > 1:
        return parts[1]
    return "preprocess" if parts[0] == "preprocess" else None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: write the import from the top package on"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downwards(module):
    room = room_of(module)
    others = {name: room_of(name) for name in imports_of(MODULES[module])}
    upwards = [name for name, other in others.items()
               if room and other and other != room and FLOOR[other] >= FLOOR[room]]
    assert not upwards, f"{module} is in {room} and imports {upwards}"


@pytest.mark.parametrize("command", sorted(name for name in COMMANDS if name.startswith("research")))
def test_a_command_is_arguments_one_call_and_printing(command):
    assert len(MODULES[command].read_text(encoding="utf-8").splitlines()) <= 120


def test_only_what_builds_a_network_needs_mindspore():
    light = sorted(name for name in MODULES if not name.startswith(NETWORK) and not name.endswith("__main__"))
    done = subprocess.run([sys.executable, "-c", FORBID, *light], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
