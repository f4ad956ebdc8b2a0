"""lm-evaluation-harness against the server, and evaluate.py on the same questions: the same answers."""

import importlib
import importlib.util
import json
import sys
from importlib.machinery import PathFinder

import numpy as np
import pytest

from research_internlm.data.chat_template import render_chat
from research_internlm.data.choice import LETTERS
from research_internlm.data.tokens import load_tokenizer
from research_internlm.inference.text_codec import TextCodec
from tests.helpers.cheap_start import sitecustomize
from tests.helpers.commands import exam_items
from tests.helpers.random_served import random_model, serve
from tests.helpers.warm import run_warm

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed (pip install 'lm-eval[api]')")]


@pytest.fixture
def harness(monkeypatch):
    """The harness, which needs the package datasets that tests otherwise start without."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [PathFinder if finder is sitecustomize.OnlyWhatIsUsed else finder
                                           for finder in sys.meta_path])
    return importlib.import_module("lm_eval")


@pytest.fixture(scope="module")
def model(demo_data, tmp_path_factory):
    """Options that name a random model, for evaluate.py and serve.py alike, and its tokenizer."""
    tokenizer = demo_data / "tokenizer.model"
    return (random_model(tmp_path_factory.mktemp("lm_eval"), tokenizer),
            TextCodec(tokenizer, load_tokenizer(tokenizer).vocab_size()))


@pytest.fixture(scope="module")
def items(demo_data, tmp_path_factory):
    """Multiple-choice questions, as evaluate.py's test file."""
    items = [item for item in exam_items(demo_data) if item["output"].startswith("The right option is")][:40]
    path = tmp_path_factory.mktemp("exam") / "test_alpaca_format.json"
    path.write_text(json.dumps(items))
    return items, path


@pytest.fixture(scope="module")
def url(model):
    with serve(model[0]) as url:
        yield url


def raw_prompt(codec, item):
    """The chat prompt as text, its special tokens as their pieces."""
    segments = render_chat(item["instruction"], item["input"], family=codec.special.family)
    return "".join(codec.processor.id_to_piece(codec.special[segment.content]) if segment.is_token
                   else segment.content for segment in segments)


def test_local_completions_gives_the_accuracy_of_evaluates_logits(harness, model, items, url, tmp_path):
    options, codec = model
    questions, test_file = items
    run_warm("research_internlm/evaluate.py", "mmlu", *options, "--mode", "logits", "--test_file", test_file,
             "--output", tmp_path / "result.json")
    ours = json.loads((tmp_path / "result.json").read_text())["overall"]
    predictions = json.loads((tmp_path / "result.predictions.json").read_text())

    data = tmp_path / "exam.json"
    data.write_text(json.dumps([
        {"context": raw_prompt(codec, item), "answer": LETTERS.index(prediction["answer"])}
        for item, prediction in zip(questions, predictions, strict=True)]))
    task = {"task": "exam", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
            "doc_to_text": "{{context}}", "target_delimiter": "", "doc_to_target": "answer",
            "doc_to_choice": [f" The right option is {letter}" for letter in LETTERS],
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    theirs = harness.simple_evaluate(
        model="local-completions", tasks=[task], bootstrap_iters=0, batch_size=8, model_args={
            "model": "base", "base_url": f"{url}/v1/completions", "tokenizer_backend": "remote",
            "max_length": 256})
    picked = [LETTERS[int(np.argmax([answer[0] for answer in sample["filtered_resps"]]))]
              for sample in sorted(theirs["samples"]["exam"], key=lambda sample: sample["doc_id"])]
    assert picked == [prediction["letter"] for prediction in predictions]
    assert theirs["results"]["exam"]["acc,none"] == ours["accuracy"]
    assert len(set(picked)) > 1
