"""Entry point: what a run will do, cost and keep, before it is started.

    python research_internlm/plan.py --config yaml/lora_finetune.yaml --items 138020 --cards 4
    python research_internlm/plan.py --config yaml/lora_finetune.yaml \\
        --train_dataset train.mindrecord --step_time_ms 3700     (or --measured output/run1)
    python research_internlm/plan.py --config yaml/lora_finetune.yaml --items 138020 \\
        --probe probe.json --price 6.5 --picture front.png --choice 1 --write yaml/my_run.yaml

Any key of the recipe can follow as key.path=value, as for run_internlm.py.
"""

from __future__ import annotations

import argparse

from research_internlm import recipes
from research_internlm.contest import scoring
from research_internlm.model.lora import count_parameters
from research_internlm.planning import front, run_plan, search, step_sources
from research_internlm.planning.cost_table import TABLE_LENGTHS
from research_internlm.planning.plan_yaml import derived_numbers, write_plan
from research_internlm.recipes import schedule
from research_internlm.shared.arguments import number, whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.files import require_absent


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
    step.add_argument("--probe", metavar="F", help="plan from steps that scripts/probe.sh measured here")
    step.add_argument("--step_time_ms", type=number(above=0), metavar="MS", help="a measured step of this "
                      "recipe at its own batch and seq_length; predicts hours")
    step.add_argument("--measured", metavar="RUN_DIR", help="take the step out of this run's logs "
                      "instead; a run of the same model")
    add("--seq_length", type=whole(1), nargs="+", default=TABLE_LENGTHS, metavar="L",
        help="row lengths of the cost table, beside the recipe's (default: %(default)s)")
    add("--price", type=number(above=0), metavar="CNY", help="price of a card-hour: choices show money")
    add("--picture", metavar="PNG", help="draw hours against card-hours")
    add("--choice", type=whole(1), metavar="N", help="the choice of that number is what --write writes")
    add("--write", metavar="Y", help="write a copy of the recipe with the derived numbers, comments kept; "
        "with overlays or key.path=value, a yaml that extends the recipe by these and the numbers")
    add("--overwrite", action="store_true", help="let --write replace a file, a lone recipe included")
    return recipes.parse_command_line(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Prints the plan, and writes it with --write."""
    arguments = parse_arguments(argv)
    for pattern in arguments.targets or []:
        run_plan.check_pattern(pattern, "--targets")
    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides, "finetune")
    run_plan.check_recipe(recipe)
    data = run_plan.read_data(arguments, recipe)
    steps = schedule.steps_from_recipe(recipe, data.rows, arguments.cards)
    plan = schedule.search_plan(steps, arguments.saves, schedule.only_five_are_full(recipe))
    count = count_parameters(recipes.model_config(recipe))
    pet_config = recipes.model_config(recipe).get("pet_config")
    lines = [*run_plan.describe_steps(steps, data), *run_plan.describe_checkpoints(plan, steps),
             *(f"warning: {arguments.config}: {text}"
               for text in schedule.warnings(schedule.plan_from_recipe(recipe, steps), steps)),
             scoring.parameter_line(count), *run_plan.describe_cost(recipe, count, plan, arguments.cards), ""]
    if pet_config:
        targets = arguments.targets or list(dict.fromkeys((pet_config["target_modules"],
                                                           run_plan.ALL_LINEARS)))
        lines += [*scoring.score_table(recipe, arguments.rank, targets, arguments.accuracy), ""]
    model = run_plan.measured_model(arguments, recipe)
    lines += [*run_plan.describe_table(recipe, steps, data, model, arguments.seq_length), ""]
    found = None
    if model := model or step_sources.from_table(recipe):
        found = run_plan.search_choices(recipe, steps, data, model, arguments)
        lines += run_plan.describe_search(found, arguments.price)
    print("\n".join(lines).rstrip())
    return finish(arguments, found, derived_numbers(plan, arguments.cards))


def finish(arguments: argparse.Namespace, found: run_plan.Search | None, numbers: recipes.Recipe) -> int:
    """Draws and writes what was asked for."""
    if (arguments.picture or arguments.choice) and not found:
        raise ToolkitError("--picture and --choice on a CPU need measured steps: give --probe F, which "
                           "scripts/probe.sh makes")
    if arguments.picture:
        path = require_absent(arguments.picture, arguments.overwrite)
        front.draw(found.own, found.narrow, found.wide, found.found, found.job.model.source, path)
        print(f"written: {path}")
    if arguments.choice:
        choice = found.choice(arguments.choice)
        numbers = search.overrides(choice)
        print("\n".join(run_plan.describe_choice(choice, arguments.write or "YAML")))
    if arguments.write:
        written = write_plan([arguments.config, *arguments.overlay], arguments.overrides, numbers,
                             arguments.write, arguments.overwrite, extend=bool(arguments.choice))
        print(f"written: {written}")
    return 0


if __name__ == "__main__":
    run_main(main)
