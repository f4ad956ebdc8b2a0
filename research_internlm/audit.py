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
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.evaluation.audit_findings import draw, table
from research_internlm.recipes.for_mindformers import set_scratch_log_folder
from research_internlm.runs.log_summary import json_ready
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import require_file, write_json
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.result_set import result_set
from research_internlm.shared.versions import require_installed_packages


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
    add("--limit", type=whole(1), metavar="N", help="only the first N rows (the result says so)")
    add("--output", type=Path, required=True, metavar="F.json", help="result; a bar chart goes beside it "
        "as F.png")
    add("--overwrite", action="store_true", help="replace an existing result")
    return recipes.parse_command_line(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    leave_job_variables_out()
    with result_set(arguments.output, arguments.overwrite, {arguments.output: None}) as results:
        result, staged = audit(arguments), results.folder / arguments.output.name
        print(table(result))
        draw(result, staged.with_suffix(".png"))
        write_json(staged, json_ready(result))
        results.publish(staged.with_suffix(".png").name, staged.name)
    return 0


def audit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Computes the losses of the weights that the command line names."""
    for path in (arguments.load_checkpoint, arguments.base):
        if path:
            require_file(path, "the checkpoint")
    require_installed_packages()
    set_scratch_log_folder()
    from research_internlm.evaluation import label_losses
    from research_internlm.inference.predict_recipe import predict_recipe
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    recipe = predict_recipe(arguments.config, arguments.overlay, arguments.overrides)
    return label_losses.audit(recipe, arguments.config, arguments.dataset, arguments.model_file,
                              arguments.load_checkpoint, arguments.base, arguments.limit)


if __name__ == "__main__":
    run_main(main)
