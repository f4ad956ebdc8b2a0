"""What a model hub is to the toolkit, and how the failures of the hubs' packages are told to the user."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from research_internlm.publishing.contents import Item
from research_internlm.shared.errors import ToolkitError

AGAIN = "run the same command again, it sends only what is missing"
_MOST_SAID = 400  # characters of a package's message


@dataclass(frozen=True)
class Remote:
    """A file as a hub lists it.

    Attributes:
        size: Bytes; None where the hub does not say.
        sha256: Hex; None where the hub does not say.
    """

    size: int | None
    sha256: str | None

    def holds(self, item: Item) -> bool:
        """Whether it is this file, as far as the hub says."""
        return self.size in (None, item.size) and self.sha256 in (None, item.sha256)


class Hub(Protocol):
    """One repository of one hub."""

    def open(self, private: bool) -> bool:
        """Makes the repository where it is missing.

        Returns:
            Whether it was missing.

        Raises:
            ToolkitError: It cannot be made, or is not as private as was asked.
        """

    def listing(self) -> dict[str, Remote]:
        """The files that the hub holds."""

    def send(self, items: Sequence[Item]) -> None:
        """Sends files; one that is there already is replaced.

        Raises:
            ToolkitError: Not all were sent.
        """


def secret(variable: str, hub: str, where: str) -> str:
    """A key or token from the environment, the only place where it is looked for.

    Raises:
        ToolkitError: It is not set.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise ToolkitError(f"{hub} wants a token: make one at {where}, then `export {variable}=...` in the "
                           "shell that starts this command (it is read from the environment only)")
    return value


def without(secrets: Sequence[str], said: str) -> str:
    """A message of a package or a server in one line, without the secrets."""
    for value in secrets:
        said = said.replace(value, "***")
    return re.sub(r"\s+", " ", said).strip()[:_MOST_SAID]


@contextlib.contextmanager
def failures_told(hub: str, action: str, secrets: Sequence[str]) -> Iterator[None]:
    """Tells what a hub's package raises; it raises all kinds of exceptions, KeyError and AttributeError too.

    Args:
        hub: Its name.
        action: What is done, for the message.
        secrets: What must not be printed.

    Raises:
        ToolkitError: In place of any exception.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        raise ToolkitError(f"{hub}: cannot {action}: {type(error).__name__}: {without(secrets, str(error))}; "
                           f"check the token's rights and the connection, then {AGAIN}") from None


def require_private(hub: str, repo: str, is_private: bool | None) -> None:
    """Refuses to send into a repository that is there already and that others can read.

    Raises:
        ToolkitError: It is public, or the hub does not say.
    """
    if not is_private:
        state = "public" if is_private is False else "there, and its visibility is not told"
        raise ToolkitError(f"{hub}: {repo} is {state}, but --private was given; make it private on the site, "
                           "or name another --repo")
