"""Entry point: a server with OpenAI's API, for clients, evaluation harnesses and the web page.

    python research_internlm/serve.py --config yaml/predict_mmlu.yaml --load_checkpoint base.ckpt \\
        --model_file tokenizer.model --adapter tuned=output/run1/checkpoint_trainable/rank_0/x.ckpt

Listens on 127.0.0.1; another --host needs a key in the environment variable INTERNLM_API_KEY, which clients
then send as `Authorization: Bearer KEY`. Requests that wait are answered together, as many at once as the
recipe's runner_config.batch_size. Each --adapter is a model of its own beside the base, merged while loading:
every name takes the whole model's memory. SIGTERM finishes what runs.
"""

from __future__ import annotations

import argparse
import os

from research_internlm import recipes
from research_internlm.serving.model_source import adapters_of, add_model_options, source_of
from research_internlm.shared.arguments import number, whole
from research_internlm.shared.errors import ToolkitError, run_main
from research_internlm.shared.process_role import leave_job_variables_out
from research_internlm.shared.versions import require_installed_packages

KEY_VARIABLE = "INTERNLM_API_KEY"
LOCAL = ("127.0.0.1", "localhost", "::1")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--name", default="base", help="the checkpoint's name (default: %(default)s)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=P",
                        help="a LoRA checkpoint of a run over the checkpoint, as a model NAME (repeatable)")
    parser.add_argument("--host", default=LOCAL[0], help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=whole(1, 65535), default=8000, help="(default: %(default)s)")
    parser.add_argument("--root_path", default="", metavar="PATH",
                        help="path under which a proxy shows the server, e.g. /proxy/8000")
    parser.add_argument("--queue", type=whole(1), default=256, metavar="N",
                        help="most prompts that wait; more are answered 429 (default: %(default)s)")
    parser.add_argument("--max_bytes", type=whole(1), default=4 << 20, metavar="N",
                        help="largest body of a request (default: %(default)s)")
    parser.add_argument("--max_seconds", type=number(0), default=600.0, metavar="S",
                        help="longest time for an answer, waiting included (default: %(default)g)")
    parser.add_argument("--log_requests", action="store_true",
                        help="write the texts of requests to the log (default: paths and counts only)")
    return recipes.parse_command_line(parser, argv)


def api_key(host: str) -> str | None:
    """The key that clients must send; None for none.

    Raises:
        ToolkitError: The address can be reached from other machines and there is no key.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and host not in LOCAL:
        raise ToolkitError(f"--host {host} can be reached from other machines: set a key for clients in the "
                           f"environment variable {KEY_VARIABLE}, or leave --host out and use an ssh tunnel")
    return key


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    arguments = parse_arguments(argv)
    key = api_key(arguments.host)
    sources = {arguments.name: source_of(arguments)}
    for name, adapter in adapters_of(arguments.adapter, arguments.name).items():
        sources[name] = source_of(arguments, adapter)
    leave_job_variables_out()
    require_installed_packages()
    try:
        from research_internlm.serving import server
        from research_internlm.serving.app import Settings
    except ImportError as error:
        raise ToolkitError(f"the server needs the package {error.name}: .venv/bin/pip install -e '.[serve]'"
                           ) from error
    from research_internlm.training import registered  # noqa: F401 (what the recipe check looks up)

    settings = Settings(key, arguments.max_bytes, arguments.max_seconds, arguments.log_requests,
                        arguments.root_path)
    server.run(sources, settings, arguments.host, arguments.port, arguments.queue)
    return 0


if __name__ == "__main__":
    run_main(main)
