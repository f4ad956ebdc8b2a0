"""From model sources to a listening server, and to its end."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Mapping

import uvicorn

from research_internlm.serving.app import Settings, build_app
from research_internlm.serving.model_source import ModelSource, opened
from research_internlm.serving.scheduler import LoadedModel, Scheduler
from research_internlm.shared.errors import ToolkitError


def run(sources: Mapping[str, ModelSource], settings: Settings, host: str, port: int, queue: int) -> None:
    """Serves until SIGTERM or Ctrl-C; requests that have begun are answered before it returns.

    Args:
        sources: Name -> where the model comes from.
        settings: How the server behaves.
        host, port: Where it listens.
        queue: Most prompts that may wait.

    Raises:
        ToolkitError: The address is not free, or a model cannot be loaded.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with listening(host, port) as listener:  # before the minutes that loading takes
        scheduler = Scheduler({name: functools.partial(load, source) for name, source in sources.items()},
                              queue)
        scheduler.start()
        config = uvicorn.Config(build_app(scheduler, settings), log_config=None, access_log=False,
                                timeout_graceful_shutdown=int(settings.max_seconds) + 1, server_header=False)
        address = f"http://{host}:{port}{settings.root_path.rstrip('/')}"
        print(f"serving {', '.join(sources)}: web page {address}/, API {address}/v1", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            scheduler.close()


def listening(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ToolkitError: The address is not free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ToolkitError(f"cannot listen on {host} port {port}: {error.strerror}; choose another --port, "
                           "or stop what listens there") from None
    return listener


def load(source: ModelSource) -> LoadedModel:
    """Loads a model for the scheduler, in its thread, and compiles what every answer needs.

    Raises:
        ToolkitError: As `model_source.opened`.
    """
    with opened(source) as (engine, codec):
        rows, scorer = engine.rows, engine.prompt_scorer
    rows.admit({0: [codec.special["bos"]]})
    rows.step({0: codec.special["bos"]})
    return LoadedModel(rows, scorer, codec)
