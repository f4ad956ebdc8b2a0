"""The upload record (obs_links.json): upload.py --record writes it, the report and the submission read it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from research_internlm.shared import schema
from research_internlm.shared.files import publish, write_json
from research_internlm.shared.schema import Count
from research_internlm.shared.staging import staging

_PATIENCE = 300.0  # seconds; the upload is done, and a busy machine must not cost it its link


@dataclass(frozen=True, kw_only=True)
class Link:
    """A file that was uploaded and verified.

    Attributes:
        file: Its name, or its path below the folder that was uploaded.
        bytes: Its size.
        sha256: Of its content.
        url: Where it is.
        public_read: Whether anyone can read it there.
    """

    file: str
    bytes: Count
    sha256: str
    url: str
    public_read: bool = False


def read_links(path: str | os.PathLike) -> list[Link]:
    """Reads the upload record.

    Raises:
        ToolkitError: It is missing or not valid.
    """
    return schema.read(path, list[Link], "the upload record",
                       "move it away and upload again with scripts/upload_obs.sh --record")


def record(link: Link, path: str | os.PathLike) -> None:
    """Adds a link to the upload record; one of the same url is replaced.

    Uploads that run at the same time wait for each other here, so that no link is lost.

    Raises:
        ToolkitError: The record is there and not valid.
    """
    path = Path(path)
    with staging(path, _PATIENCE) as folder:
        known = {known.url: known for known in read_links(path)} if path.is_file() else {}
        write_json(folder / path.name, schema.to_json([*({**known, link.url: link}).values()]))
        publish(folder / path.name, path)
