"""metafile.yml: every file once, by the rules of OpenXLab's package, which judges where it is installed."""

import copy
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from research_internlm.publishing import metafile
from research_internlm.publishing.contents import Item
from research_internlm.shared.errors import ToolkitError

NAMES = ("README.md", "config.json", "model.safetensors", "说明.txt")
ITEMS = [Item(name, Path(name), 1, "0" * 64) for name in NAMES]


def build(items=ITEMS, licence="apache-2.0", datasets=()):
    return metafile.build("user/model", licence, items, datasets)


def test_every_file_stands_there_once_with_a_result():
    meta = build(datasets=["MMLU", "SQuAD v1.1"])
    assert [model["Weights"] for model in meta["Models"]] == list(NAMES)
    assert meta["Models"][2]["Results"] == [{"Task": "Question Answering", "Dataset": "MMLU"},
                                            {"Task": "Question Answering", "Dataset": "SQuAD v1.1"}]
    assert build()["Models"][0]["Results"] == [{"Task": "Text Generation", "Dataset": "none"}]
    assert meta["Collections"][0]["License"] == "apache-2.0" and meta["Collections"][0]["Name"] == "model"
    written = metafile.text(meta)
    assert written.isascii() and yaml.safe_load(written) == meta


@pytest.mark.parametrize("place, message", [
    (("Collections",), "License is missing"), (("Collections", 0, "Name"), "Name is missing"),
    (("Collections", 0, "License"), "License is missing"),
    (("Collections", 0, "Code"), "Code.URL is missing"),
    (("Collections", 0, "Code", "URL"), "Code.URL is missing"), (("Models",), "Models is empty"),
    (("Models", 0, "Name"), "Name of None is missing"),
    (("Models", 0, "Weights"), "Weights of README.md is missing"),
    (("Models", 0, "Results"), "Results of README.md is missing"),
    (("Models", 0, "Results", 0, "Task"), "Task of a result of README.md"),
    (("Models", 0, "Results", 0, "Dataset"), "Dataset of a result of README.md"),
])
def test_each_key_of_the_package_is_wanted(place, message):
    meta = copy.deepcopy(build())
    assert not list(metafile.problems(meta))
    inner = meta
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    assert any(message in text for text in metafile.problems(meta))


@pytest.mark.parametrize("names, message", [
    (["sub/a.json"], "sub/a.json lies in a folder"), (["a", "a"], "Weights a stands there 2 times"),
    (["https://x/a"], "is an address"),
])
def test_names_that_the_package_would_take_for_others(names, message):
    with pytest.raises(ToolkitError, match=message):
        build([Item(name, Path(name), 1, "") for name in names])


@pytest.mark.skipif(not os.environ.get("TOOLKIT_OPENXLAB"), reason="set TOOLKIT_OPENXLAB to a Python "
                    "that has openxlab==0.1.3")
def test_the_package_reads_the_same(tmp_path):
    (tmp_path / "metafile.yml").write_text(metafile.text(build()))
    judge = ("from openxlab.model.common.meta_file_util import MetafileParser, get_meta_payload\n"
             "meta = MetafileParser('metafile.yml').parse_and_validate()\n"
             "sent = get_meta_payload('model', False, meta)\n"
             "print('|'.join(model['weightName'] for model in sent['models']), sent['license'])")
    done = subprocess.run([os.environ["TOOLKIT_OPENXLAB"], "-c", judge], cwd=tmp_path, capture_output=True,
                          text=True, check=True, env={"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"})
    assert done.stdout.splitlines()[-1] == "|".join(NAMES) + " apache-2.0"
