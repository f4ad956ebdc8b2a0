"""Token counts against the encoder of the prompts, and the costs of a seq_length by hand."""

import json

import numpy as np
import pytest

from research_internlm import lengths as command
from research_internlm.data.chat_template import encode
from research_internlm.data.detection import detection_item
from research_internlm.data.item_files import read_items
from research_internlm.data.items import render_item
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.planning import sample_lengths
from tests.helpers.commands import exam_items


@pytest.fixture(scope="module")
def items(demo_data):
    texts = [detection_item("The city of Lyon lies in France. " * count, count % 2, "en")
             for count in (1, 4, 9)]
    return [*exam_items(demo_data)[:5], *texts]


def test_tokens_are_those_of_the_prompts(demo_data, items):
    processor = load_tokenizer(demo_data / "tokenizer.model")
    special = special_tokens(processor)
    found = sample_lengths.measure(iter(items), processor, special)
    assert set(found) == {"all", "human", "AI"}
    by_ai = [items[5], items[7]]
    assert found["AI"]["text"].tolist() == [len(processor.encode(item["text"])) for item in by_ai]
    for name, members in (("all", items[:5]), ("human", items[6:7]), ("AI", by_ai)):
        encoded = [encode(render_item(item, special.family), processor, special) for item in members]
        assert found[name]["sample"].tolist() == [len(ids) for ids, _ in encoded]
        assert found[name]["answer"].tolist() == [sum(supervised) for _, supervised in encoded]


def test_a_conversation_is_counted_by_role(tmp_path, demo_data):
    (tmp_path / "talk.json").write_text(json.dumps([{"conversations": [
        {"from": "system", "value": "Be short."}, {"from": "human", "value": "Which city?"},
        {"from": "gpt", "value": "Lyon."}, {"from": "human", "value": "Where is it?"},
        {"from": "gpt", "value": "In France."}]}]))
    processor = load_tokenizer(demo_data / "tokenizer.model")
    special = special_tokens(processor)
    item, = read_items(tmp_path / "talk.json")
    found = sample_lengths.measure(iter([item]), processor, special)["all"]
    texts = {"system": ["Be short."], "user": ["Which city?", "Where is it?"],
             "assistant": ["Lyon.", "In France."]}
    ids, supervised = encode(render_item(item, special.family), processor, special)
    assert {name: values.tolist() for name, values in found.items()} == {
        "sample": [len(ids)], "answer": [sum(supervised)],
        **{role: [sum(len(processor.encode(text)) for text in own)] for role, own in texts.items()}}


def test_costs_by_hand():
    row = sample_lengths.cost({"a": np.array([513, 514, 100]), "b": np.array([200])}, 512, 0)  # rows of 513
    assert row["too_long"] == {"a": 1, "b": 0} and row["too_long_share"] == {"a": 1 / 3, "b": 0}
    assert row["cut_tokens"] == 1 and row["padding"] == 1 - (513 + 513 + 100 + 200) / (4 * 513)
    assert row["packed_rows"] == 3 and row["rows_saved_by_packing"] == 4 / 3
    assert row["packed_fill"] == (513 + 513 + 300) / (3 * 513)


@pytest.mark.parametrize(("human", "ai", "expected"), [
    ([600] * 100, [100] * 900, 1024),               # a tenth of all, but every human text, is longer than 513
    ([100] * 99 + [3000], [100] * 100, 512),        # one in a hundred may be cut
    ([100] * 98 + [3000] * 2, [100] * 900, 4096),   # two may not, though they are one in 500 of all
    ([5000] * 50, [100], 4096),
])
def test_the_recommended_length_cuts_no_class(human, ai, expected):
    result = sample_lengths.summary({"human": {"sample": np.array(human)}, "AI": {"sample": np.array(ai)}})
    assert result["recommended"]["seq_length"] == expected
    assert result["recommended"]["holds"] == (max(human) < 4098)


def test_command_writes_numbers_and_histogram(tmp_path, demo_data, items, capsys):
    (tmp_path / "items.json").write_text(json.dumps(items))
    command.main([str(tmp_path / "items.json"), "--model_file", str(demo_data / "tokenizer.model"),
                  "--output", str(tmp_path / "lengths.json")])
    assert "recommended: seq_length 512" in capsys.readouterr().out
    assert json.loads((tmp_path / "lengths.json").read_text())["classes"]["AI"]["items"] == 2
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
