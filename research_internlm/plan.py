"""Entry point: what a run will do, cost and keep, before it is started.

    python research_internlm/plan.py --config yaml/lora_finetune.yaml --items 138020 --cards 4
    python research_internlm/plan.py --config yaml/lora_finetune.yaml \\
        --train_dataset train.mindrecord --step_time_ms 3700     (or --measured output/run1)
    python research_internlm/plan.py --config yaml/lora_finetune.yaml --items 138020 \\
        --write yaml/my_run.yaml

Any key of the recipe can follow as key.path=value, as for run_internlm.py.
"""

from __future__ import annotations

import argparse

from research_internlm import recipes
from research_internlm.contest import scoring
from research_internlm.model.lora import count_parameters
from research_internlm.planning import cost
from research_internlm.planning.plan_yaml import derived_numbers, write_plan
from research_internlm.planning.run_plan import (
    ALL_LINEARS,
    check_pattern,
    check_recipe,
    cost_table,
    describe_checkpoints,
    describe_cost,
    describe_steps,
    read_data,
)
from research_internlm.recipes.schedule import (
    plan_from_recipe,
    search_plan,
    steps_from_recipe,
    warnings,
)
from research_internlm.shared.arguments import number, whole
from research_internlm.shared.errors import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="training recipe, e.g. yaml/lora_finetune.yaml")
    add("--overlay", action="append", default=[], metavar="YAML",
        help="yaml laid over the recipe (repeatable)")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--items", type=whole(1), metavar="N", help="samples of the training file; for a "
                      "packed recipe the rows are estimated from their mean length")
    data.add_argument("--train_dataset", metavar="F", help="training MindRecord; its manifest tells rows and "
                      "tokens")
    add("--cards", type=whole(1), default=4, help="data-parallel workers (default: %(default)s)")
    add("--saves", type=whole(1), default=10, metavar="N", help="checkpoints to write over the run, a "
        "multiple of the five to submit (default: %(default)s)")
    add("--rank", type=whole(1), nargs="+", default=[4, 8, 16, 32], metavar="R",
        help="LoRA ranks of the score table (default: %(default)s)")
    add("--targets", nargs="+", metavar="REGEX", help="target_modules of the score table (default: the "
        "recipe's, and all seven cells of a layer)")
    add("--accuracy", type=scoring.share, default=0.9685, metavar="A",
        help="accuracy assumed in the score table, as 0.9685 or 96.85%% (default: %(default)s, the report's)")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--step_time_ms", type=number(above=0), metavar="MS", help="a measured step of this "
                      "recipe at its own batch and seq_length; predicts hours")
    step.add_argument("--measured", metavar="RUN_DIR", help="take the step out of this run's logs "
                      "instead; a run of the same model")
    add("--seq_length", type=whole(1), nargs="+", default=cost.TABLE_LENGTHS, metavar="L",
        help="row lengths of the cost table, beside the recipe's (default: %(default)s)")
    add("--write", metavar="Y", help="write a copy of the recipe with the derived numbers, comments kept; "
        "with overlays or key.path=value, a yaml that extends the recipe by these and the numbers")
    add("--overwrite", action="store_true", help="let --write replace a file, a lone recipe included")
    return recipes.parse_command_line(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Prints the plan, and writes it with --write."""
    arguments = parse_arguments(argv)
    for pattern in arguments.targets or []:
        check_pattern(pattern, "--targets")
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides, "finetune")
    check_recipe(recipe)
    data = read_data(arguments, recipe)
    steps = steps_from_recipe(recipe, data.rows, arguments.cards)
    recipe_plan = plan_from_recipe(recipe, steps)
    plan = search_plan(steps, arguments.saves)
    count = count_parameters(recipes.model_config(recipe))
    pet_config = recipes.model_config(recipe).get("pet_config")
    lines = [*describe_steps(steps, data), *describe_checkpoints(plan, steps),
             *(f"warning: {arguments.config}: {text}" for text in warnings(recipe_plan, steps)),
             scoring.parameter_line(count), *describe_cost(recipe, count, plan, arguments.cards), ""]
    if pet_config:
        targets = arguments.targets or list(dict.fromkeys((pet_config["target_modules"], ALL_LINEARS)))
        lines += [*scoring.score_table(recipe, arguments.rank, targets, arguments.accuracy), ""]
    lines += cost_table(recipe, steps, data, arguments)
    print("\n".join(lines).rstrip())
    if arguments.write:
        written = write_plan([arguments.config, *arguments.overlay], arguments.overrides,
                             derived_numbers(plan, arguments.cards), arguments.write, arguments.overwrite)
        print(f"written: {written}")
    return 0


if __name__ == "__main__":
    run_main(main)
