"""Items of texts on their way into a MindRecord: what is refused, what is cut, and how it is counted."""

import json

import numpy as np
import pytest

from preprocess.detection.cutting import cut_long_texts
from preprocess.mindrecord.encoding import encode_blocks
from research_internlm.data.chat_template import encode
from research_internlm.data.detection import detection_item, render_detection
from research_internlm.data.families import UPSTREAM_END
from research_internlm.data.item_files import read_items
from research_internlm.data.tokens import IGNORE_ID, PAD_ID, load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest
from tests.helpers.alpaca import read_rows
from tests.helpers.commands import convert_items, exam_items, run_script

TEXT = "the city of river and garden "


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    items = [detection_item(TEXT * 9, label, language) for label in (0, 1) for language in ("en", "zh")]
    (folder / "corpus.json").write_text(json.dumps(items))
    run_script("scripts/demo/tiny_tokenizer.py", "--corpus", folder / "corpus.json", "--output",
               folder / "tokenizer.model")
    return load_tokenizer(folder / "tokenizer.model")


def test_long_texts_are_cut_and_all_else_is_untouched(processor, demo_data):
    special = special_tokens(processor)
    items = [exam_items(demo_data)[0], detection_item(TEXT, 1, "en"), detection_item(TEXT * 20, 0, "en"),
             detection_item(TEXT * 30, 0, "zh"), detection_item(TEXT * 20, 1, "en")]
    block = next(encode_blocks(iter(items), processor, special, 1))
    found = cut_long_texts(items, block, 90, "end", processor, special, UPSTREAM_END)
    assert found.cut == {"human text": 2, "AI text": 1}
    for place, (before, after) in enumerate(zip(block.samples(), found.samples(), strict=True)):
        if place < 2:
            assert all(map(np.array_equal, before, after))
        else:
            ids, supervised = after
            answer = encode(render_detection(items[place]), processor, special)
            wanted = [id_ for id_, own in zip(*answer, strict=True) if own]
            assert len(ids) <= 90 < len(before[0]) and ids[supervised].tolist() == wanted
            assert ids.dtype == np.int32 and supervised.dtype == bool


def test_a_vocabulary_that_does_not_decide_at_one_token_is_refused(demo_data):
    processor = load_tokenizer(demo_data / "tokenizer.model")
    items = [detection_item(TEXT, 1, "zh")]
    block = next(encode_blocks(iter(items), processor, special_tokens(processor), 1))
    with pytest.raises(ToolkitError, match="at one token"):
        cut_long_texts(items, block, 90, "end", processor, special_tokens(processor), UPSTREAM_END)


@pytest.mark.model
def test_the_converter_keeps_every_text_and_counts_the_cut_ones(processor, tmp_path):
    """No text is dropped, as an exam item of the same length is, and each ends in its verdict."""
    texts = [(1, 1), (1, 0), (20, 0), (30, 0), (20, 1)]  # of four and more, only a part fits
    items = [detection_item(TEXT * times, label, "en") for times, label in texts]
    items += [{"instruction": "a", "input": "the " * count, "output": "b"} for count in (1, 300)]
    (tmp_path / "tokenizer.model").write_bytes(processor.serialized_model_proto())
    path = convert_items(tmp_path, tmp_path / "tokenizer.model", items, "--seq_length", 89, "--cut",
                         "head_tail")
    manifest = read_manifest(path)
    assert manifest["forms"] == {"human text": 3, "AI text": 2, "alpaca": 2}
    assert manifest["cut_texts"] == {"human text": 2, "AI text": 1} and manifest["cut"] == "head_tail"
    assert manifest["counts"] == {"in": 7, "samples": 6, "out": 6, "dropped": {"overlong": 1}}
    assert manifest["wordings"] == ["detection-1"]
    special = special_tokens(processor)
    for (ids, labels), (times, label) in zip(read_rows(path), texts, strict=False):
        whole = encode(render_detection(detection_item(TEXT, label, "en")), processor, special)
        answer = [id_ for id_, supervised in zip(*whole, strict=True) if supervised]
        assert labels[labels != IGNORE_ID].tolist() == answer
        assert len(ids) == 90 and ((ids == PAD_ID).sum() < 5) == (times > 1)


@pytest.mark.parametrize(("change", "words"), [
    ({"output": "human"}, "its output 'human' is not the verdict of label 1"),
    ({"language": "fr"}, "in language 'fr'"),
    ({"label": 3}, "label 3"),
    ({"label": "x"}, "label 'x'"),
    ({"history": ["x"]}, "no place for history"),
    ({"text": None}, "expected an object with the texts instruction, text, output"),
])
def test_items_that_contradict_themselves_are_refused(tmp_path, change, words):
    item = detection_item(TEXT, 1, "en", id="a", source="s", prompt="p", words=5, cluster="a", marks=[])
    (tmp_path / "good.json").write_text(json.dumps([item]))
    assert list(read_items(tmp_path / "good.json")) == [item]
    (tmp_path / "bad.json").write_text(json.dumps([item | change]))
    with pytest.raises(ToolkitError, match=words):
        list(read_items(tmp_path / "bad.json"))
