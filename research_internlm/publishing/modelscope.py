"""ModelScope through its package modelscope-hub."""

from __future__ import annotations

from collections.abc import Sequence

from research_internlm.publishing.contents import Item
from research_internlm.publishing.hub import Remote, failures_told, require_private, secret
from research_internlm.shared.extras import load_extra

TOKEN = "MODELSCOPE_API_TOKEN"
_HUB, _MODEL = "ModelScope", "model"


class ModelScope:
    """A model repository.

    Args:
        repo: USER/NAME.
        licence: Of a repository that is made.
    """

    def __init__(self, repo: str, licence: str) -> None:
        self._package = load_extra("modelscope_hub", "modelscope")
        self._errors = load_extra("modelscope_hub.errors", "modelscope")
        self._repo, self._licence = repo, licence
        self._token = secret(TOKEN, _HUB, "modelscope.cn/my/myaccesstoken")
        self._api = self._package.HubApi(token=self._token)

    def open(self, private: bool) -> bool:
        """See Hub."""
        with failures_told(_HUB, f"open {self._repo}", [self._token]):
            try:
                found = self._api.get_repo(self._repo, _MODEL)
            except self._errors.NotExistError:
                self._api.create_repo(self._repo, _MODEL, license=self._licence,
                                      visibility="private" if private else "public")
                return True
            if private:
                seen = found.visibility
                require_private(_HUB, self._repo,
                                None if seen is None else seen == self._package.Visibility.PRIVATE)
        return False

    def listing(self) -> dict[str, Remote]:
        """See Hub."""
        with failures_told(_HUB, f"list {self._repo}", [self._token]):
            return {file.path: Remote(file.size, file.sha256 or None)
                    for file in self._api.list_repo_files(self._repo, _MODEL) if file.type != "tree"}

    def send(self, items: Sequence[Item]) -> None:
        """See Hub. File by file: what a broken call has sent stays."""
        for item in items:
            with failures_told(_HUB, f"send {item.name}", [self._token]):
                self._api.upload_file(self._repo, _MODEL, item.path, item.name,
                                      commit_message=f"Add {item.name}")
