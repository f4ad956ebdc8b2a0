"""The job of a client that chats with exports: read from JOB.json, answered as JSON on standard output.

JOB.json is a mapping with `messages` (conversations), `new_tokens`, and `models`: name to `folder` and
`adapter` (None, or one over the base in `folder`). The answer: the client's `version`, and for each model the
ids of the prompts and of the greedy answers. It needs the standard library alone: the client's Python is not
the toolkit's.
"""

import json
import sys
from pathlib import Path


def run(version, answers):
    """Answers the job of the command line by `answers(folder, adapter, conversations, new_tokens)`."""
    job = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({"version": version, **{
        name: answers(**model, conversations=job["messages"], new_tokens=job["new_tokens"])
        for name, model in job["models"].items()}}))
