"""metafile.yml of OpenXLab: every file of a model once, by the rules of the openxlab package (0.1.3).

Source of the rules: openxlab/model/common/meta_file_util.py. The package reads the first collection, and
takes each model's `Weights` as a path on this machine whose last part is the name in the repository.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from research_internlm.publishing.contents import Item
from research_internlm.shared.errors import ToolkitError

NAME = "metafile.yml"
_CODE = "https://github.com/InternLM/InternLM"  # where the model's own code is; the package wants one


def build(repo: str, licence: str, items: Sequence[Item], datasets: Sequence[str]) -> dict[str, Any]:
    """The content of metafile.yml.

    Args:
        repo: USER/NAME.
        licence: Its licence, e.g. `apache-2.0`.
        items: The files; their names become the names of the models.
        datasets: What the model was scored on; the package wants at least one result a file.

    Raises:
        ToolkitError: The package would refuse it, or two files would overwrite each other.
    """
    results = [{"Task": "Question Answering", "Dataset": name} for name in datasets] or [
        {"Task": "Text Generation", "Dataset": "none"}]
    meta = {"Collections": [{"Name": repo.partition("/")[2], "License": licence, "Framework": "[]",
                             "Paper": {}, "Code": {"URL": _CODE}}],
            "Models": [{"Name": item.name, "Results": [dict(row) for row in results], "Weights": item.name}
                       for item in items]}
    if wrong := list(problems(meta)):
        raise ToolkitError(f"{NAME} is not valid for OpenXLab: {'; '.join(wrong)}")
    return meta


def problems(meta: Mapping[str, Any]) -> Iterator[str]:
    """What the openxlab package refuses, or would do wrong without a word."""
    for collection in meta.get("Collections") or [{}]:
        yield from (f"Collections: {key} is missing" for key in ("Name", "License")
                    if not collection.get(key))
        if not (collection.get("Code") or {}).get("URL"):
            yield "Collections: Code.URL is missing"
    models = meta.get("Models") or []
    if not models:
        yield "Models is empty"
    for model in models:
        yield from (f"Models: {key} of {model.get('Name')} is missing"
                    for key in ("Name", "Weights", "Results") if not model.get(key))
        for result in model.get("Results") or []:
            yield from (f"Models: {key} of a result of {model.get('Name')} is missing"
                        for key in ("Task", "Dataset") if not result.get(key))
        weights = str(model.get("Weights"))
        if weights.startswith(("http://", "https://")):
            yield f"Models: Weights of {model.get('Name')} is an address, a local file was expected"
        elif "/" in weights:
            yield (f"{weights} lies in a folder, and OpenXLab's package keeps only the last part of a name: "
                   "put all files beside each other")
    for key in ("Name", "Weights"):
        yield from (f"Models: {key} {value} stands there {count} times"
                    for value, count in Counter(str(model.get(key)) for model in models).items() if count > 1)


def text(meta: Mapping[str, Any]) -> str:
    """The file's text. ASCII: the package opens it in the encoding of the user's locale."""
    return yaml.safe_dump(dict(meta), sort_keys=False, allow_unicode=False)
