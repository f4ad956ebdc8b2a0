"""The server's ASGI application: routes, limits and what a client is told.

Texts of requests are logged only where the settings ask for it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from research_internlm.checkpoints.hf_tokenizer import chat_template
from research_internlm.serving import openai_api
from research_internlm.serving.answering import Answering
from research_internlm.serving.chats import Chat
from research_internlm.serving.completions import Completions, with_bos
from research_internlm.serving.event_stream import EventStream, took_too_long
from research_internlm.serving.metrics import Metrics
from research_internlm.serving.openai_api import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from research_internlm.serving.page import page_routes
from research_internlm.serving.scheduler import LoadedModel, Scheduler
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.parsing import parse_json

_log = logging.getLogger(__name__)
_OPEN = ("/health",)  # answered without a key; so is the page, which holds nothing of anybody
_CLOSED_REQUEST = 499  # nobody reads it; for the metrics
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        api_key: What clients must send as a bearer token; None asks for none.
        max_bytes: Largest body of a request.
        max_seconds: Longest time for one answer, waiting included.
        log_requests: Write the bodies of requests to the log.
        root_path: The path under which a proxy shows the server.
    """

    api_key: str | None = None
    max_bytes: int = 4 << 20
    max_seconds: float = 600.0
    log_requests: bool = False
    root_path: str = ""


def build_app(scheduler: Scheduler, settings: Settings) -> Starlette:
    """The application over a scheduler that has started."""
    server = _Server(scheduler, settings)
    routes = [
        Route("/health", server.health), Route("/metrics", server.metrics_page),
        Route("/v1/models", server.list_models), Route("/v1/models/{name:path}", server.one_model),
        Route("/v1/completions", server.complete, methods=["POST"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/detokenize", server.detokenize, methods=["POST"]),
        Route("/tokenizer_info", server.tokenizer_info), *page_routes()]
    app = Starlette(routes=routes, exception_handlers={
        ApiError: _api_error, HTTPException: _http_error, ClientDisconnect: _nobody, Exception: _unexpected})
    app.add_middleware(_Guard, server=server)
    return app


class _Guard:
    """Checks the key, and counts requests; before anything else sees them."""

    def __init__(self, app: Any, server: _Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        shown = scope["path"]
        scope = {**scope, "path": self._server.local_path(shown)}
        path = _metrics_path(scope["path"])
        try:
            if scope["path"] == "/" and not shown.endswith("/"):
                # The page's addresses are relative to the folder it lies in.
                await RedirectResponse(f"{shown}/")(scope, receive, noting_send)
            elif path and path not in _OPEN and not self._server.has_key(Request(scope)):
                error = ApiError("a valid API key is needed: Authorization: Bearer KEY", 401,
                                 "invalid_api_key")
                await JSONResponse(error.body(), error.status)(scope, receive, noting_send)
            else:
                await self._app(scope, receive, noting_send)
        finally:
            name = path or "other"
            self._server.metrics.requests.labels(name, status).inc()
            self._server.metrics.seconds.labels(name).observe(time.perf_counter() - started)


_PATHS = ("/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize",
          "/detokenize", "/tokenizer_info")


def _metrics_path(path: str) -> str | None:
    """The path of an endpoint; None for the page and unknown paths, of which there is no end."""
    return "/v1/models" if path.startswith("/v1/models/") else path if path in _PATHS else None


class _Server:
    """The endpoints."""

    def __init__(self, scheduler: Scheduler, settings: Settings) -> None:
        self._scheduler, self._settings = scheduler, settings
        self.metrics = Metrics(scheduler)
        self._answering = Answering(scheduler, self.metrics)
        self._created = int(time.time())

    def local_path(self, path: str) -> str:
        """The path without the proxy's, which some proxies leave in and some take away."""
        root = self._settings.root_path.rstrip("/")
        return path[len(root):] or "/" if root and (path + "/").startswith(root + "/") else path

    def has_key(self, request: Request) -> bool:
        """Whether a request may be answered; the time it takes tells nothing of the key."""
        if self._settings.api_key is None:
            return True
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(key.encode(), self._settings.api_key.encode())

    async def health(self, request: Request) -> Response:
        """Whether the server answers."""
        return JSONResponse({"status": "ok"})

    async def metrics_page(self, request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def list_models(self, request: Request) -> Response:
        """The models' names."""
        entries = [self._entry(name) for name in self._scheduler.models]
        return JSONResponse({"object": "list", "data": entries})

    async def one_model(self, request: Request) -> Response:
        """One model."""
        return JSONResponse(self._entry(self._model_of(request.path_params["name"])))

    def _entry(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "research_internlm",
                "max_model_len": self._scheduler.models[name].rows.seq_length}

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked = await self._read(request, CompletionRequest)
        return await self._answer(request, Completions(self._answering, self._model_of(asked.model), asked),
                                  bool(asked.stream))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = await self._read(request, ChatRequest)
        return await self._answer(request, Chat(self._answering, self._model_of(asked.model), asked),
                                  bool(asked.stream))

    async def _answer(self, request: Request, answer: Completions | Chat, is_stream: bool) -> Response:
        seconds = self._settings.max_seconds
        if is_stream:
            return EventStream(await answer.stream(), seconds, answer.close, self.metrics.gone.inc)
        task, gone = asyncio.ensure_future(answer.answer()), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return JSONResponse(task.result())
            if gone.done():
                self.metrics.gone.inc()
                raise ClientDisconnect
            raise took_too_long(seconds)
        finally:
            for one in (task, gone):
                one.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
            answer.close()

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        asked = await self._read(request, TokenizeRequest)
        model = self._loaded(asked.model)
        ids = model.codec.encode_text(asked.prompt)
        if asked.add_special_tokens is not False:
            ids = with_bos(model.codec, ids)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": model.rows.seq_length})

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        asked = await self._read(request, DetokenizeRequest)
        codec = self._loaded(asked.model).codec
        if wrong := [one for one in asked.tokens if not 0 <= one < codec.special.vocab_size]:
            raise ApiError(f"{wrong[0]} is not a token id of the model")
        return JSONResponse({"prompt": codec.decode(asked.tokens)})

    async def tokenizer_info(self, request: Request) -> Response:
        """What a client needs to write prompts by itself; /tokenize then gives the ids of training."""
        codec = self._loaded(request.query_params.get("model")).codec
        tokens = {f"{role}_token": codec.processor.id_to_piece(codec.special[role])
                  for role in ("bos", "eos", "unk")}
        return JSONResponse({"tokenizer_class": type(codec.processor).__name__, **tokens,
                             "pad_token": tokens["eos_token"],
                             "chat_template": chat_template(codec.processor, codec.special,
                                                           codec.processor.id_to_piece)})

    async def _read(self, request: Request, kind: type[T]) -> T:
        """The body as a request of a kind."""
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            # Also what keeps web pages of others from asking: browsers send JSON only where it is allowed.
            raise ApiError("Content-Type must be application/json", 415)
        most, body = self._settings.max_bytes, bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise ApiError(f"the request is larger than {most:,} bytes", 413, "request_too_large")
        try:
            value = parse_json(body.decode("utf-8"), "the request")
        except (ToolkitError, UnicodeDecodeError) as error:
            raise ApiError(f"the body is not JSON in UTF-8: {error}") from None
        if self._settings.log_requests:
            _log.info("%s %s", request.url.path, json.dumps(value, ensure_ascii=False))
        return openai_api.read(kind, value)

    def _model_of(self, name: str | None) -> str:
        """The model that a request names; without a name the first one."""
        models = self._scheduler.models
        name = name or next(iter(models))
        if name not in models:
            raise ApiError(f"the model {name!r:.80} does not exist; there is {', '.join(models)}", 404,
                           "model_not_found")
        return name

    def _loaded(self, name: str | None) -> LoadedModel:
        return self._scheduler.models[self._model_of(name)]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _api_error(request: Request, error: ApiError) -> Response:
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), error.status, headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods."""
    return await _api_error(request, ApiError(f"{request.method} {request.url.path}: {error.detail}",
                                              error.status_code))


async def _nobody(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=_CLOSED_REQUEST)


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette logs the error itself.
    return await _api_error(request, ApiError("the server failed; its log says how", 500))
