"""Packing: every sample once and whole, no row too long, full rows; packed files and their manifests."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess import alpaca_data_preprocess_v1 as converter
from preprocess.mindrecord.packing import assign_rows
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.shared.files import read_manifest
from tests.helpers.alpaca import encode_items, item, read_rows, write_items

BOS, EOS = 1, 2


def split_row(ids, labels):
    """A packed row's samples, as (ids, labels) texts of numbers; padding must stand at the end only."""
    used = np.flatnonzero(ids)[-1] + 1
    assert (ids[:used] != 0).all() and (labels[used:] == -100).all()
    starts = [*np.flatnonzero(ids == BOS), used]
    assert starts[0] == 0
    return [(tuple(ids[a:b].tolist()), tuple(labels[a:b].tolist()))
            for a, b in itertools.pairwise(starts)]


@given(st.lists(st.integers(1, 60), max_size=200), st.integers(0, 9))
def test_every_sample_is_in_one_row_and_no_row_is_too_long(lengths, seed):
    rows = list(assign_rows(lengths, 60, seed))
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    totals = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < total <= 60 for total in totals)
    assert rows == list(assign_rows(lengths, 60, seed))
    # a row is closed only when no sample of a later row fits behind its own
    for number, total in enumerate(totals):
        later = [lengths[index] for row in rows[number + 1:] for index in row]
        assert all(total + length > 60 for length in later)


def test_another_seed_is_another_order_of_the_same_samples():
    lengths = [5 + 7 * number % 23 for number in range(60)]
    one, two = (list(assign_rows(lengths, 60, seed)) for seed in (1, 2))
    assert one != two and one == list(assign_rows(lengths, 60, 1))
    for rows in (one, two):
        assert sorted(itertools.chain(*rows)) == list(range(60))


@pytest.mark.parametrize("lengths", [[0, 3], [3, 61]])
def test_a_sample_that_cannot_be_placed_is_an_error(lengths):
    with pytest.raises(ValueError, match="in rows of 60"):
        list(assign_rows(lengths, 60, 1))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.lists(st.integers(3, 99), max_size=12),
                          st.lists(st.integers(3, 99), max_size=6)), min_size=1, max_size=60),
       st.integers(20, 40))
def test_rows_hold_whole_samples_with_their_own_labels(texts, length):
    samples = [(np.array([BOS, *prompt, *answer, EOS], np.int32),
                np.array([False] * (1 + len(prompt)) + [True] * (1 + len(answer))))
               for prompt, answer in texts]
    statistics = converter.Statistics()
    rows = list(converter.make_rows(converter.pack(samples, length, 7), length, statistics))
    found = sorted(sample for row in rows for sample in split_row(row["input_ids"], row["labels"]))
    assert found == sorted((tuple(ids.tolist()), tuple(np.where(flags, ids, -100).tolist()))
                           for ids, flags in samples)
    assert all(sample[0][-1] == EOS for sample in found)
    assert (statistics.samples, statistics.rows) == (len(samples), len(rows))
    assert statistics.tokens == sum(len(ids) for ids, _ in samples)
    assert statistics.longest_answer == max((row["labels"] != -100).sum() for row in rows)
    assert statistics.fullest == max((row["input_ids"] == BOS).sum() for row in rows)


def convert(folder, name, items, tokenizer, *more):
    source = write_items(folder / f"{name}.json", items)
    output = folder / f"{name}.mindrecord"
    converter.convert(converter.parse_arguments([
        "--input_glob", str(source), "--output_file", str(output), "--model_file", str(tokenizer), *more]))
    return output, read_manifest(output)


@pytest.mark.model
def test_a_packed_file_holds_what_the_unpacked_one_holds(tmp_path, demo_data):
    tokenizer = demo_data / "tokenizer.model"
    items = [item(f"Number {n}?" + " more" * (n % 5)) for n in range(40)] + [item("long " * 300)]
    more = ("--seq_length", "255")
    plain, plain_facts = convert(tmp_path, "plain", items, tokenizer, *more)
    packed, facts = convert(tmp_path, "packed", items, tokenizer, *more, "--pack")
    samples = [sample for row in read_rows(packed) for sample in split_row(*row)]
    assert sorted(samples) == sorted(split_row(*row)[0] for row in read_rows(plain))
    assert (plain_facts["packed"], facts["packed"]) == (False, True)
    assert plain_facts["counts"] == {"in": 41, "samples": 40, "out": 40, "dropped": {"overlong": 1}}
    rows = len(read_rows(packed))
    assert facts["counts"] == {"in": 41, "samples": 40, "out": rows, "dropped": {"overlong": 1}}
    assert facts["dropped"] == [{**plain_facts["dropped"][0], "item": "packed.json item 41"}]
    for key in ("total", "supervised", "longest"):
        assert facts["tokens"][key] == plain_facts["tokens"][key]
    assert facts["tokens"]["longest_answer"] == max((labels != -100).sum() for _, labels in read_rows(packed))
    assert facts["tokens"]["padding"] == 256 * rows - facts["tokens"]["total"]
    assert facts["samples_per_row"]["mean"] == pytest.approx(40 / rows, abs=1e-4)
    assert facts["samples_per_row"]["max"] == max((ids == BOS).sum() for ids, _ in read_rows(packed))


@pytest.mark.slow
@pytest.mark.real_data
def test_rows_of_the_real_questions_are_full_and_mixed(real_data, real_held_out):
    """In six orderings each, of about equal lengths: the first one's are taken for all six."""
    train = real_held_out[0]
    first = [entry for entry in train if entry["ordering"] == 1]
    processor = load_tokenizer(real_data / "tokenizers" / "internlm.model")
    samples = encode_items(first, processor, special_tokens(processor), 2)
    length_of = {entry["id"]: len(ids) for entry, (ids, _) in zip(first, samples, strict=True)}
    names = [entry["id"] for entry in train if length_of[entry["id"]] <= 1025]
    lengths = [length_of[name] for name in names]
    rows = list(assign_rows(lengths, 1025, 42))
    assert len(lengths) > 50_000
    assert sum(lengths) / (1025 * len(rows)) >= 0.97
    met = [len(row) - len({names[index] for index in row}) for row in rows]
    assert max(met) <= 2 and sum(map(bool, met)) < 0.01 * len(rows)
