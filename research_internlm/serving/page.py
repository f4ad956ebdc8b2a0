"""The web page at `/`: the files of serving/static, where they are installed."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).with_name("static")


def page_routes(folder: Path = STATIC) -> list[BaseRoute]:
    """Routes of the page; none without an index.html. They come after the API's."""
    if not (folder / "index.html").is_file():
        return []
    return [Mount("/", StaticFiles(directory=folder, html=True), name="page")]
