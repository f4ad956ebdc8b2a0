"""Entry point: MMLU accuracy and SQuAD F1/EM of a checkpoint, and scoring of a prediction file.

    python research_internlm/evaluate.py mmlu  --config yaml/predict_mmlu.yaml --load_checkpoint CKPT \\
        --model_file tokenizer.model --test_file test_alpaca_format.json --output results_mmlu.json
    python research_internlm/evaluate.py squad --config yaml/predict_eval_squad.yaml --load_checkpoint CKPT \\
        --model_file tokenizer.model --squad_file dev-v1.1.json --output results_squad.json
    python research_internlm/evaluate.py squad-score --squad_file dev-v1.1.json \\
        --predictions predictions.json --output results_squad.json

The prompts are those of training (research_internlm/data/chat_template.py). squad-score needs no MindSpore.
"""

from __future__ import annotations

import argparse

from research_internlm import recipes
from research_internlm.evaluation.runner import evaluate_mmlu, evaluate_squad, score_squad
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import require_absent, write_json


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", required=True, metavar="F.json", help="results; the raw predictions go "
                        "beside it as F.predictions.json")
    output.add_argument("--overwrite", action="store_true", help="replace existing results")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--config", required=True, help="predict recipe, e.g. yaml/predict_mmlu.yaml")
    model.add_argument("--overlay", action="append", default=[], metavar="YAML",
                       help="yaml laid over the recipe (repeatable)")
    model.add_argument("--load_checkpoint", required=True, metavar="P",
                       help="base, merged or full LoRA checkpoint")
    model.add_argument("--model_file", required=True, metavar="F", help="tokenizer.model of the weights")
    model.add_argument("--device_target", choices=("CPU", "Ascend"),
                       help="default: the recipe's context.device_target")
    model.add_argument("--limit", type=int, metavar="N",
                       help="only the first N questions (the results say so)")

    choice = commands.add_parser("mmlu", parents=[model, output], help="multiple-choice accuracy")
    choice.add_argument("--test_file", required=True, metavar="F", help="test_alpaca_format.json")
    choice.add_argument("--mode", choices=("generate", "logits"), default="generate",
                        help="generate: read the letter from the written answer, as the contest does; "
                        "logits: compare the four letters in one forward pass (default: %(default)s)")
    reading = commands.add_parser("squad", parents=[model, output], help="SQuAD F1 and EM, both metrics")
    reading.add_argument("--squad_file", required=True, metavar="F", help="SQuAD v1.1 JSON")
    reading.add_argument("--questions", choices=("all", "contest"), default="all",
                         help="contest: only the first question of each paragraph, all the gate needs "
                         "(default: %(default)s)")
    scoring = commands.add_parser("squad-score", parents=[output], help="score a prediction file")
    scoring.add_argument("--squad_file", required=True, metavar="F", help="SQuAD v1.1 JSON")
    scoring.add_argument("--predictions", required=True, metavar="F", help="{question id: text} JSON")
    return recipes.parse_command_line(parser, argv)


def main() -> int:
    """Runs the entry point."""
    arguments = parse_arguments()
    require_absent(arguments.output, arguments.overwrite)
    if arguments.command != "squad-score":
        from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)
    run = {"mmlu": evaluate_mmlu, "squad": evaluate_squad, "squad-score": score_squad}[arguments.command]
    write_json(arguments.output, run(arguments))
    return 0


if __name__ == "__main__":
    run_main(main)
