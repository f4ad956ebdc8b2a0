"""The sequences of a calibration: whole items, pieces of a text, spread over the file."""

import json

import numpy as np
import pytest

from research_internlm.inference.samples import encode_sample
from research_internlm.quantisation.calibration import read_sequences
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import exam_items


def test_a_text_is_cut_into_pieces_that_begin_like_a_sample(codec, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The old stone bridge of the town. " * 60)
    ids = codec.processor.encode(path.read_text())
    found, facts = read_sequences(path, codec, 1000, 20)
    assert (found[:, 0] == codec.special["bos"]).all()
    assert found[:, 1:].reshape(-1).tolist() == ids[:len(ids) // 19 * 19]
    assert facts == {"tokens_in_file": len(ids) + 1, "tokens_used": found.size, "sequences": len(ids) // 19}


def test_items_are_joined_in_order_and_a_few_sequences_are_spread_over_the_file(codec, demo_data, tmp_path):
    items = exam_items(demo_data)[:40]
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items))
    encoded = [encode_sample(item, codec).ids for item in items]
    everything, _ = read_sequences(path, codec, 1000, 64)
    assert (everything[:, 0] == codec.special["bos"]).all()
    assert everything[0, :len(encoded[0])].tolist() == encoded[0][:64]
    some, facts = read_sequences(path, codec, 3, 64)
    assert (some == everything[[0, round((len(everything) - 1) / 2), -1]]).all()
    assert facts["sequences"] == 3 and facts["tokens_in_file"] == sum(map(len, encoded))


def test_a_short_file_gives_one_shorter_sequence(codec, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("The town.")
    found, facts = read_sequences(path, codec, 128, 512)
    assert found.shape == (1, facts["tokens_in_file"]) and found.dtype == np.int32


def test_a_file_of_blanks_is_refused(codec, tmp_path):
    path = tmp_path / "blank.jsonl"
    path.write_text('{"other": 1}\n')
    with pytest.raises(ToolkitError, match=r"blank\.jsonl, item 1: expected an object"):
        read_sequences(path, codec, 8, 64)
