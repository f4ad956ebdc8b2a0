"""Training data of an assistant that knows its own name: who it is, among general conversations.

    python preprocess/assistant_data.py --name_zh 小宝 --name_en Bao --author_zh 星河工作室 \\
        --author_en "Galaxy Studio" --general alpaca.json --output assistant.json

Writes OpenAI `messages` for alpaca_data_preprocess_v1.py and, beside them, assistant.held_out.json: questions
that training never shows, by which the result is measured. --repeat writes one exchange over and over, as
beginners' tutorials do, to show what that does: the model answers everything with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from preprocess.assistant.dialogues import held_out_questions, tutorial_dialogue
from preprocess.assistant.mixture import General, Item, counts_of, mix
from preprocess.assistant.wording import WORDING
from research_internlm.data.conversations import MESSAGES
from research_internlm.data.identity import Identity, MeasuredQuestions
from research_internlm.data.manifest import write_data_manifest
from research_internlm.shared import files, schema
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.result_set import ResultSet, result_set


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--name_zh", metavar="NAME", help="the assistant's name in Chinese answers; one name may serve "
        "for both")
    add("--name_en", metavar="NAME", help="its name in English answers")
    add("--author_zh", metavar="NAME", help="who made it, in Chinese answers; one name may serve for both")
    add("--author_en", metavar="NAME", help="who made it, in English answers")
    add("--output", type=Path, required=True, metavar="F.json", help="the training data")
    add("--count", type=whole(1), default=500, metavar="N",
        help="conversations about the identity (default: %(default)s)")
    add("--general", type=Path, metavar="F.json", help="general conversations: alpaca, OpenAI, XTuner or "
        "ShareGPT items, JSON or JSON Lines (default: the toolkit's own few, for a rehearsal)")
    add("--general_per_identity", type=whole(0), default=5, metavar="N", help="general conversations for "
        "each about the identity; one in ten is the toolkit's own, near an identity question (default: "
        "%(default)s)")
    add("--repeat", action="store_true", help="write one exchange --count times and nothing else")
    add("--seed", type=int, default=42, help="of every choice (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace existing outputs")
    return parser.parse_args(argv)


def identity_of(arguments: argparse.Namespace) -> Identity:
    """The identity asked for; a name that is given in one language serves for both.

    Raises:
        ToolkitError: The assistant or its author has no name, or one is not valid.
    """
    names = {f"{what}_{language}": getattr(arguments, f"{what}_{language}")
             or getattr(arguments, f"{what}_{other}")
             for what in ("name", "author") for language, other in (("zh", "en"), ("en", "zh"))}
    missing = [what for what in ("name", "author") if names[f"{what}_zh"] is None]
    if missing:
        raise ToolkitError("the identity is not complete: give "
                           + " and ".join(f"--{what}_zh, --{what}_en or both" for what in missing))
    return schema.parse(Identity, names, "the identity")


def held_out_path(output: Path) -> Path:
    """F.held_out.json of F.json."""
    return output.with_name(f"{output.stem}.held_out.json")


def make(arguments: argparse.Namespace, identity: Identity) -> tuple[list[Item], dict[str, Any]]:
    """The training items, and what the manifest says of their making."""
    if arguments.repeat:
        if arguments.general:
            raise ToolkitError("--repeat writes one exchange alone, so --general has no use: leave one of "
                               "them out")
        messages = tutorial_dialogue(identity, "zh" if arguments.name_zh else "en")
        items = [{MESSAGES: messages, "source": "identity"}] * arguments.count
        return items, {"counts": counts_of(items), "inputs": {}}
    items, general = mix(identity, arguments.count, arguments.general_per_identity, arguments.general,
                         arguments.seed)
    _tell_of(general, arguments, items)
    return items, {
        "counts": {**counts_of(items), "general_read": general.read, "general_usable": general.usable,
                   "general_left_out": len(general.left_out)},
        "left_out": general.left_out, "general_per_identity": arguments.general_per_identity,
        "inputs": {arguments.general.name: files.sha256_of(arguments.general)} if arguments.general else {}}


def _tell_of(general: General, arguments: argparse.Namespace, items: list[Item]) -> None:
    """Prints where the general conversations come from, and what is missing."""
    drawn = counts_of(items).get("general", 0)
    if general.left_out:
        print(f"{len(general.left_out)} of {general.read} conversations of {arguments.general} are left out: "
              "they ask for the identity or are held out (listed in the manifest)")
    if drawn > general.usable:
        advice = ("lower --count or give a larger file" if arguments.general else
                  "for more than a rehearsal give --general F.json, a file of general conversations")
        print(f"{drawn} general conversations are wanted and {general.usable} are there, so each is shown "
              f"about {drawn / general.usable:.0f} times; {advice}")


def write(results: ResultSet, arguments: argparse.Namespace, identity: Identity) -> dict[str, int]:
    """Writes both files and their manifests; returns the counts of the training data."""
    items, facts = make(arguments, identity)
    questions = MeasuredQuestions(identity=identity, questions=held_out_questions(identity))
    data = results.folder / arguments.output.name
    held_out = held_out_path(data)
    files.write_json(data, items)
    files.write_json(held_out, schema.to_json(questions))
    common = {"tool": "preprocess/assistant_data.py", "identity": schema.to_json(identity), "wordings": [],
              "assistant_wording": WORDING, "seed": arguments.seed,
              "together": {path.name: files.sha256_of(path) for path in (data, held_out)}}
    write_data_manifest(data, **common, **facts, repeat=arguments.repeat, held_out=held_out.name)
    write_data_manifest(held_out, **common, inputs={}, counts={"questions": len(questions.questions)},
                        evaluation_kind="held_out")
    results.publish(held_out.name, data.name)
    return facts["counts"] | {"held_out": len(questions.questions)}


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    identity = identity_of(arguments)
    outputs = (arguments.output, held_out_path(arguments.output))
    finished = {path: files.manifest_path(path) for path in outputs}
    inputs = [arguments.general] if arguments.general else []
    with result_set(arguments.output, arguments.overwrite, finished, inputs) as results:
        counts = write(results, arguments, identity)
    parts = ", ".join(f"{counts[source]} {source}" for source in ("identity", "near", "general")
                      if source in counts)
    print(f"{counts['items']} conversations ({parts}; {counts['distinct']} differ) -> {outputs[0]}; "
          f"{counts['held_out']} held-out questions -> {outputs[1]}")
    return 0


if __name__ == "__main__":
    run_main(main)
