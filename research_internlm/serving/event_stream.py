"""Server-sent events: an answer in chunks, for as long as its client listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse

from research_internlm.serving.openai_api import ApiError

_DONE = "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """Sends chunks as `data:` lines.

    Also while nothing can be sent, because the question waits for its turn, it notices that the client has
    gone.

    Args:
        chunks: JSON values.
        seconds: Longest time for all of them; then an error ends the stream.
        close: Called at the end in any case; frees the answer's place.
        on_gone: Called where the client goes away before the end.
    """

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], seconds: float, close: Callable[[], None],
                 on_gone: Callable[[], None]) -> None:
        super().__init__(_events(chunks, seconds), media_type="text/event-stream",
                         # A proxy must not hold events back.
                         headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._close, self._on_gone = close, on_gone

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        writing = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
            has_gone = not writing.done() or isinstance(writing.exception(), OSError)
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)
            self._close()
        if has_gone:
            self._on_gone()
        else:
            writing.result()


async def _events(chunks: AsyncIterator[dict[str, Any]], seconds: float) -> AsyncIterator[str]:
    end = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            left = end - asyncio.get_running_loop().time()
            yield _event(await asyncio.wait_for(anext(chunks), left))
    except StopAsyncIteration:
        pass
    except asyncio.TimeoutError:
        yield _event(took_too_long(seconds).body())
    except ApiError as error:  # the status line has gone out already
        yield _event(error.body())
    yield _DONE


def took_too_long(seconds: float) -> ApiError:
    """The error of an answer that was not complete in time."""
    return ApiError(f"the answer took longer than {seconds:g} seconds", 504, "timeout")


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
