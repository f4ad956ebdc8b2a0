"""The console script `internlm` (and `python -m research_internlm`): lists all commands and runs them.

    internlm                        one line for each command
    internlm plan --config ...      the same as python research_internlm/plan.py --config ...
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path

from research_internlm.shared.errors import USER_ERROR_EXIT_CODE, run_main

# In the order of the work. A command also answers to the name of its file.
COMMANDS = {
    "doctor": "research_internlm.doctor",
    "csv2json": "preprocess.mmlu_cmmlu_csv2json",
    "preprocess": "preprocess.data_preprocess",
    "detection-csv2json": "preprocess.detection_csv2json",
    "assistant": "preprocess.assistant_data",
    "convert": "preprocess.alpaca_data_preprocess_v1",
    "doctor-data": "research_internlm.doctor_data",
    "lengths": "research_internlm.lengths",
    "weights": "research_internlm.weights",
    "probe": "research_internlm.probe",
    "plan": "research_internlm.plan",
    "rehearse": "research_internlm.rehearse",
    "train": "research_internlm.run_internlm",
    "launch": "research_internlm.launch",
    "mirror": "research_internlm.mirror",
    "logs": "research_internlm.logs",
    "answers": "research_internlm.answers",
    "evaluate": "research_internlm.evaluate",
    "chat": "research_internlm.chat",
    "serve": "research_internlm.serve",
    "audit": "research_internlm.audit",
    "score": "research_internlm.score",
    "report": "research_internlm.report",
    "upload": "research_internlm.upload",
    "publish": "research_internlm.publish",
    "submit": "research_internlm.submit",
}
_BY_FILE = {module.rpartition(".")[2]: name for name, module in COMMANDS.items()}


def summary(module: str) -> str:
    """First line of a command's docstring, read without importing the command: some load MindSpore."""
    source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0].removeprefix("Entry point: ")


def overview() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["usage: internlm COMMAND [options]", "", *lines, "",
                      "internlm COMMAND --help says more about one."])


def run(name: str, options: list[str]) -> None:
    """Runs a command as if it had been started by its path, and ends the process.

    Args:
        name: Name in `COMMANDS`.
        options: Its command line.
    """
    # Usage lines and the command that a run records are made of it.
    sys.argv = [f"internlm {name}", *options]
    run_main(lambda: importlib.import_module(COMMANDS[name]).main())


def main(argv: list[str] | None = None) -> int:
    """Lists the commands, or runs one; running one ends the process."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    name = _BY_FILE.get(words[0], words[0])
    if name not in COMMANDS:
        near = difflib.get_close_matches(words[0], dict.fromkeys([*COMMANDS, *_BY_FILE]))
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        print(f"error: {words[0]!r} is not a command of internlm; {hint}internlm alone lists all commands",
              file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    run(name, words[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
