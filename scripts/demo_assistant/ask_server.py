"""Starts internlm serve, asks one question over HTTP, and ends the server: one turn of the assistant demo.

    python scripts/demo_assistant/ask_server.py --question 你是谁？ --log server.log -- --config ...

What follows -- are options of serve.py.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from research_internlm.shared.errors import ToolkitError, run_main

SERVE = Path(__file__).resolve().parents[2] / "research_internlm" / "serve.py"
_START_SECONDS, _ANSWER_SECONDS = 180, 60


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(server: subprocess.Popen, address: str, log: Path) -> None:
    """Waits for the server to answer.

    Raises:
        ToolkitError: It ends, or does not begin to answer.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ToolkitError(f"the server did not start; its log is {log}")


def ask(address: str, model: str, question: str) -> str:
    """The answer of /v1/chat/completions, greedy."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0,
                       "max_tokens": 40})
    request = urllib.request.Request(f"{address}/v1/chat/completions", body.encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--question", required=True)
    parser.add_argument("--model", default="base", help="name of the model to ask (default: %(default)s)")
    parser.add_argument("--log", type=Path, required=True, metavar="F", help="what the server prints")
    parser.add_argument("serve", nargs="+", help="options of serve.py, after --")
    arguments = parser.parse_args(argv)
    port = free_port()
    with open(arguments.log, "w", encoding="utf-8") as log:
        server = subprocess.Popen([sys.executable, str(SERVE), "--port", str(port), *arguments.serve],
                                  stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(server, address, arguments.log)
            print(ask(address, arguments.model, arguments.question))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(_ANSWER_SECONDS)
    return 0


if __name__ == "__main__":
    run_main(main)
