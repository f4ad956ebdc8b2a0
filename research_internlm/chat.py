"""Entry point: a conversation with a model in the terminal.

    python research_internlm/chat.py --config yaml/predict_mmlu.yaml --load_checkpoint merged.ckpt \\
        --model_file tokenizer.model
    echo "Who are you?" | python research_internlm/chat.py --config ... --load_checkpoint base.ckpt \\
        --adapter output/run1/checkpoint_trainable/rank_0/x.ckpt

The weights may be base, merged, base and --adapter, or a Hugging Face folder. Answers are greedy unless
--temperature is above 0. From a pipe, the input is one message and the output is the answer alone.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from research_internlm import recipes
from research_internlm.inference.engine import Engine
from research_internlm.inference.sampling import Sampling
from research_internlm.inference.text_codec import TextCodec
from research_internlm.serving.chat_session import ChatSession
from research_internlm.serving.console import Console
from research_internlm.serving.model_source import add_model_options, opened, source_of
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import run_main
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.versions import require_installed_packages


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--adapter", metavar="P", help="LoRA checkpoint of a run, laid over the checkpoint")
    parser.add_argument("--system", default="", metavar="TEXT", help="system text (default: none)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token "
                        "(default: %(default)g)")
    parser.add_argument("--top_p", type=float, default=1.0, help="nucleus sampling (default: 1, all)")
    parser.add_argument("--top_k", type=int, default=0, help="only so many tokens (default: 0, all)")
    parser.add_argument("--repetition_penalty", type=float, default=1.0,
                        help="above 1: less repetition (default: %(default)g)")
    parser.add_argument("--max_new_tokens", type=whole(1), metavar="N",
                        help="longest answer (default: the recipe's max_new_tokens)")
    parser.add_argument("--seed", type=int, help="of the sampling (default: another one each time)")
    parser.add_argument("--show_prompt", action="store_true", help="print the token ids of each prompt")
    parser.add_argument("--stats", action="store_true", help="print tokens and speed of each answer")
    return recipes.parse_command_line(parser, argv)


def load(arguments: argparse.Namespace) -> tuple[Engine, TextCodec]:
    """The model, its weights loaded; standard output is kept for answers."""
    with contextlib.redirect_stdout(sys.stderr):
        leave_job_variables_out()
        require_installed_packages()
        from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

        with opened(source_of(arguments, arguments.adapter)) as (engine, codec):
            engine.load()
    return engine, codec


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    asked = {name: getattr(arguments, name) for name in ("temperature", "top_p", "top_k",
                                                         "repetition_penalty", "seed")}
    Sampling(arguments.max_new_tokens or 1, **asked)  # refused before anything is loaded
    engine, codec = load(arguments)
    sampling = Sampling(arguments.max_new_tokens or engine.max_new_tokens or engine.seq_length, **asked)
    session = ChatSession(engine, codec, engine.seq_length, sampling, arguments.system)
    Console(session, arguments.stats, arguments.show_prompt).run()
    return 0


if __name__ == "__main__":
    run_main(main)
