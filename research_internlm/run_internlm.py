"""Entry point: fine-tune, evaluate the loss, or predict with InternLM through MindFormers' Trainer.

    python research_internlm/run_internlm.py --config yaml/lora_finetune.yaml --run_mode finetune \\
        --train_dataset train.mindrecord --eval_dataset valid.mindrecord --load_checkpoint base.ckpt \\
        --output_dir output/run1 [--overlay yaml/overlays/cpu_tiny.yaml] [key.path=value ...]

Under msrun every worker runs this file; rank 0 writes the resolved config and run.json before step 1.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from research_internlm import recipes
from research_internlm.contest import scoring
from research_internlm.inference.predict import check_predict, predict
from research_internlm.model.lora import count_parameters
from research_internlm.recipes.data_check import fill_from_data
from research_internlm.recipes.for_mindformers import set_log_folder
from research_internlm.runs.refusal import without_traces
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.process_role import (
    is_scheduler,
    leave_job_variables_out,
    rank,
    require_job,
    worker_count,
)
from research_internlm.training.command import parse_arguments, resolve, settle_saves
from research_internlm.training.worker import (
    continue_run,
    preflight,
    prepare_output,
    serve_workers,
    train,
)


def prepare(recipe: recipes.Recipe, arguments: argparse.Namespace) -> None:
    """Checks a worker's run and makes its folder, or finds where it goes on."""
    parameters, data = preflight(recipe, arguments)
    if recipe["run_mode"] == "predict":
        check_predict(recipe, arguments.predict_data, arguments.model_file)
    if recipe.get("use_parallel"):
        require_job()
    count = count_parameters(recipes.model_config(recipe))
    parameters = replace(parameters, contest_ratio=scoring.contest_ratio(count))
    if rank() == 0:
        print(scoring.parameter_line(count), flush=True)
    fill_from_data(recipe, data, worker_count())
    settle_saves(recipe)
    prepare_output(recipe, parameters, data, arguments)
    continue_run(recipe)


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    recipe = resolve(arguments)
    if not recipe.get("output_dir"):
        raise ToolkitError("no --output_dir given and the recipe names none")
    output = Path(recipe["output_dir"])
    set_log_folder(output)
    if not recipe.get("use_parallel"):
        leave_job_variables_out()
    if is_scheduler():
        if recipe.get("use_parallel"):  # one worker needs none
            require_job()
            serve_workers(recipe["context"]["device_target"])
        return 0
    with without_traces(output, run_layout.mindformers_log_dir(output)):
        prepare(recipe, arguments)
    if recipe["run_mode"] == "predict":
        predict(recipe, arguments.predict_data, arguments.model_file)
    else:
        train(recipe)
    return 0


if __name__ == "__main__":
    run_main(main)
