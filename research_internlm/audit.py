"""Entry point: which kinds of label token a checkpoint has learnt, beside its base (the loss audit).

    python research_internlm/audit.py --config yaml/predict_mmlu.yaml --load_checkpoint CKPT \\
        --base BASE --dataset valid.mindrecord --model_file tokenizer.model --output audit.json

A mean loss hides what is not learnt. With a frozen head the end marker <eoa> may stay at its base loss of
about ln(vocab_size) nats, one token in ten, so the mean floors near 1.2 and answers never end
(docs/traps.md#end-marker-not-learnt). The audit gives the mean loss of each kind of label token, warns of
kinds that do not improve, and shows what the other end markers would cost at the same place.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm import recipes
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.evaluation.audit_findings import (
    end_costs,
    own_end,
    row_kinds,
    summarize,
    table,
    unlearnt,
)
from research_internlm.evaluation.label_losses import LabelLosses, read_rows
from research_internlm.recipes.data_check import check_mindrecord
from research_internlm.runs.log_summary import json_ready
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import (
    publish,
    read_manifest,
    require_absent,
    require_file,
    sha256_of,
    staging,
    write_json,
)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="predict recipe, e.g. yaml/predict_mmlu.yaml")
    add("--overlay", action="append", default=[], metavar="YAML",
        help="yaml laid over the recipe (repeatable)")
    add("--load_checkpoint", required=True, metavar="P",
        help="tuned weights: merged, or a full LoRA checkpoint")
    add("--base", metavar="P", help="the weights the run started from; without it nothing is compared")
    add("--dataset", required=True, metavar="F.mindrecord", help="rows to audit, unpacked")
    add("--model_file", required=True, metavar="F", help="tokenizer.model of the weights")
    add("--limit", type=int, metavar="N", help="only the first N rows (the result says so)")
    add("--output", required=True, metavar="F.json", help="result; a bar chart goes beside it as F.png")
    add("--overwrite", action="store_true", help="replace an existing result")
    return recipes.parse_command_line(parser, argv)


def audit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the audit.

    Raises:
        ToolkitError: Data, tokenizer, config and checkpoints do not fit together.
    """
    from research_internlm.evaluation.runner import predict_recipe
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    recipe = predict_recipe(arguments)
    processor = load_tokenizer(arguments.model_file)
    special = special_tokens(processor)
    length = (read_manifest(arguments.dataset) or {}).get("record_length", 0)
    manifest = check_mindrecord(arguments.dataset, length, "--dataset", arguments.config)
    if manifest.get("packed"):
        raise ToolkitError(f"{arguments.dataset} is packed; audit unpacked rows (convert without --pack)")
    if manifest["tokenizer_sha256"] != sha256_of(arguments.model_file):
        raise ToolkitError(f"{arguments.dataset} was made with another tokenizer than {arguments.model_file}")
    rows = list(read_rows(arguments.dataset, arguments.limit))
    kinds = [row_kinds(labels, processor, special) for _, labels in rows]
    marker, end_kind = own_end(rows, kinds, special)
    result: dict[str, Any] = {"dataset": Path(arguments.dataset).name, "rows": len(rows),
                              "limit": arguments.limit, "prompt_version": manifest["prompt_version"],
                              "end_marker": marker, "end_kind": end_kind}
    for name, checkpoint in (("tuned", arguments.load_checkpoint), ("base", arguments.base)):
        if checkpoint is None:
            continue
        measured = LabelLosses(recipe, checkpoint, special, length, manifest["tokens"]["longest_answer"])
        losses, ends = measured.of(rows, name)
        result[name] = {
            "checkpoint": Path(checkpoint).name, "mean": float(np.concatenate(losses).mean()),
            "kinds": summarize(kinds, losses),
            "end_markers": end_costs(ends, kinds, special),
        }
    result["unlearnt"] = unlearnt(result["tuned"]["kinds"], result["base"]["kinds"]) if arguments.base else []
    return result


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Writes the bar chart: loss by kind, tuned beside base."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    names = [name for name in ("base", "tuned") if name in result]
    kinds = list(result["tuned"]["kinds"])
    for number, name in enumerate(names):
        axes.bar(np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * 0.4,
                 [result[name]["kinds"][kind]["mean"] for kind in kinds], 0.4, label=name)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("mean loss, nats a token")
    axes.legend()
    figure.tight_layout()
    with staging(path.parent) as folder:
        figure.savefig(folder / path.name, metadata={"Software": None})
        publish(folder / path.name, path)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    arguments.device_target = None
    if arguments.limit is not None and arguments.limit < 1:
        raise ToolkitError(f"--limit {arguments.limit} audits no row; give 1 or more, or leave it out")
    output = require_absent(arguments.output, arguments.overwrite)
    for path in (arguments.load_checkpoint, arguments.base):
        if path:
            require_file(path, "the checkpoint")
    result = audit(arguments)
    print(table(result))
    draw(result, output.with_suffix(".png"))
    write_json(output, json_ready(result))
    return 0


if __name__ == "__main__":
    run_main(main)
