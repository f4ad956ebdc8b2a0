"""Modelers.cn through its package openmind-hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from research_internlm.publishing.contents import Item
from research_internlm.publishing.hub import Remote, failures_told, require_private, secret
from research_internlm.shared.extras import load_extra

TOKEN = "MODELERS_TOKEN"
_HUB = "Modelers"


class Modelers:
    """A model repository.

    Args:
        repo: USER/NAME.
        licence: Of a repository that is made.
        places: Folders that the files lie in; the package reads from the user's home and /tmp only
            unless told.
    """

    def __init__(self, repo: str, licence: str, places: Sequence[Path]) -> None:
        allowed = {str(place.resolve()) for place in places} | {str(place.absolute()) for place in places}
        os.environ.setdefault("HUB_WHITE_LIST_PATHS", ",".join(sorted(allowed)))
        self._package = load_extra("openmind_hub", "modelers")
        self._repo, self._licence = repo, licence
        self._token = secret(TOKEN, _HUB, "modelers.cn/my/tokens")

    def open(self, private: bool) -> bool:
        """See Hub."""
        with failures_told(_HUB, f"open {self._repo}", [self._token]):
            try:
                found = self._package.model_info(self._repo, token=self._token)
            except self._package.RepositoryNotFoundError:
                self._package.create_repo(self._repo, token=self._token, private=private,
                                          license=self._licence)
                return True
            if private:
                require_private(_HUB, self._repo, found.private)
        return False

    def listing(self) -> dict[str, Remote]:
        """See Hub. Only of large files the sha256 is told."""
        with failures_told(_HUB, f"list {self._repo}", [self._token]):
            tree = self._package.list_repo_tree(self._repo, recursive=True, token=self._token)
            return {entry.path: Remote(entry.size, entry.lfs.sha256 if entry.lfs else None)
                    for entry in tree if isinstance(entry, self._package.RepoFile)}

    def send(self, items: Sequence[Item]) -> None:
        """See Hub.

        File by file: of several large files in one commit the package (1.3.0) leaves out all as soon as the
        hub holds one of them already.
        """
        for item in items:
            with failures_told(_HUB, f"send {item.name}", [self._token]):
                self._package.upload_file(path_or_fileobj=str(item.path), path_in_repo=item.name,
                                          repo_id=self._repo, token=self._token,
                                          commit_message=f"Add {item.name}")
