"""internlm doctor-data: what it finds in rows, what it mends, and what it lists."""

import json
import shutil

import numpy as np
import pytest

from preprocess import alpaca_data_preprocess_v1
from preprocess.mindrecord.writer import write_mindrecord
from research_internlm import doctor_data
from research_internlm.data.manifest import read_mindrecord_manifest
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.recipes.data_check import check_mindrecord
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path
from tests.helpers.alpaca import item, read_rows, upstream_ids, write_items
from tests.helpers.tiny_vocabulary import write_vocabulary

LENGTH = 260


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "tokenizer.model")


@pytest.fixture(scope="module")
def samples(model_file):
    """Five samples as upstream encodes them: ids and where the answer starts."""
    processor = load_tokenizer(model_file)
    special = special_tokens(processor)
    return [upstream_ids(item(f"Question {number}?"), processor, special["end_of_user"],
                         special["end_of_assistant"]) for number in range(5)]


def row(ids, start, length=LENGTH):
    """A right row, written out here."""
    input_ids, labels = np.zeros(length, np.int32), np.full(length, -100, np.int32)
    input_ids[:len(ids)] = ids
    labels[start:len(ids)] = ids[start:]
    return {"input_ids": input_ids, "labels": labels}


def write(folder, rows, name="old.mindrecord"):
    folder.mkdir(exist_ok=True)
    write_mindrecord(folder / name, rows, 1, "internlm_alpaca")
    return folder / name


def run(capsys, *words):
    code = doctor_data.main([str(word) for word in words])
    return code, capsys.readouterr().out


@pytest.mark.slow
def test_a_file_of_the_converter_is_right(tmp_path, capsys, model_file):
    items = write_items(tmp_path / "items.json", [item(f"Question {number}?") for number in range(6)])
    for name, more in (("padded", []), ("packed", ["--pack"])):
        output = tmp_path / f"{name}.mindrecord"
        alpaca_data_preprocess_v1.main(["--input_glob", str(items), "--output_file", str(output),
                                        "--model_file", str(model_file), "--seq_length", "900", *more])
        capsys.readouterr()
        code, text = run(capsys, output, "--model_file", model_file, "--show", 2)
        tokens = read_mindrecord_manifest(output).tokens
        assert (code, text.count("--- row")) == (0, 2)
        assert f"{tokens.fill:.1%} of the positions are text; of the text " \
               f"{tokens.supervised / tokens.total:.1%} is supervised" in text
        assert ("6 samples (packed)" in text) == (name == "packed")
        assert "<eoh><newline><|Bot|>:⟦The right option is B" in text and "<eoa><newline><eos>⟧" in text
        assert "problem" not in text


def test_upstream_s_dead_and_ragged_rows_are_found_and_mended(tmp_path, capsys, model_file, samples):
    """Row boundaries as docs/traps.md describes them: n = L - 1 tokens before </s>, and more."""
    (first, start), (whole, at), (long, _), *_ = samples
    length = len(whole)  # full to the last place: upstream leaves such a row without a label
    dead = {"input_ids": np.array(whole, np.int32), "labels": np.full(length, -100, np.int32)}
    ragged = {"input_ids": np.array([*long[:length], 2], np.int32),
              "labels": np.full(length, -100, np.int32)}
    path = write(tmp_path / "a", [row(first, start, length), dead, ragged, row(first, start, length)])
    code, text = run(capsys, path, "--model_file", model_file)
    assert code == 1
    for words in ("no manifest old.mindrecord.manifest.json", "1 rows with another number of labels",
                  "(row 3)", "2 samples without a supervised token", "(row 2, 3)",
                  "1 samples repeat an earlier one"):
        assert words in text
    fixed = tmp_path / "new.mindrecord"
    code, text = run(capsys, path, "--model_file", model_file, "--fix", fixed)
    assert code == 0
    assert "4 samples in = 3 out (1 mended) + 1 left out, each listed in new.mindrecord.manifest.json" in text
    expected = [row(first, start, length), row(whole, at, length), row(first, start, length)]
    for (ids, labels), want in zip(read_rows(fixed), expected, strict=True):
        assert np.array_equal(ids, want["input_ids"]) and np.array_equal(labels, want["labels"])
    manifest = check_mindrecord(fixed, length, "--train_dataset", "recipe.yaml")
    assert (manifest.counts.in_, manifest.counts.samples, manifest.counts.out) == (4, 3, 3)
    assert manifest.counts.dropped == {"ragged": 1}
    assert manifest.dropped == [{"row": 3, "tokens": length + 1, "problems": ["ragged", "dead"]}]
    assert run(capsys, fixed, "--model_file", model_file)[0] == 0


def change(one, **changes):
    copy = {name: value.copy() for name, value in one.items()}
    for name, (place, value) in changes.items():
        copy[name][place] = value
    return copy


def test_every_problem_is_named_with_its_row(tmp_path, capsys, model_file, samples):
    (ids, start), (other, at), *_ = samples
    good, n = row(ids, start), len(ids)
    shorter = row(other, at, LENGTH - 3)
    cut = row(ids[:-4], start)
    path = write(tmp_path / "a", [
        good, shorter, change(good, input_ids=(3, 10**6)), change(good, labels=(n - 2, 7)),
        change(good, input_ids=(0, 5)), cut, change(good, labels=(n - 1, -100)),
        change(good, labels=(n + 1, 9)),
    ])
    code, text = run(capsys, path, "--model_file", model_file, "--show", 0)
    assert code == 1
    for words, number in (("another length than most", 2), ("not in the vocabulary", 3),
                          ("neither -100 nor the id at their place", 4), ("do not begin with <s>", 5),
                          ("labels in the padding", 8)):
        assert "problem: 1 rows " in text and f"{words} (row {number})" in text
    assert "2 samples whose last token is no supervised end token" in text and "(row 6, 7)" in text
    code, text = run(capsys, path, "--model_file", model_file, "--fix", tmp_path / "new.mindrecord")
    assert "8 samples in = 3 out (0 mended) + 5 left out" in text
    assert [entry["row"] for entry in read_mindrecord_manifest(tmp_path / "new.mindrecord").dropped] == [
        3, 4, 5, 6, 7]


def test_damage_around_the_rows_is_said(tmp_path, capsys, model_file, samples):
    path = write(tmp_path / "a", [row(*samples[0])])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/old.mindrecord.db").unlink()
    with pytest.raises(ToolkitError, match=r"old.mindrecord.db does not exist; copy old.mindrecord.db"):
        run(capsys, tmp_path / "b/old.mindrecord", "--model_file", model_file)
    for suffix in ("", ".db"):
        shutil.copy(f"{path}{suffix}", tmp_path / f"b/renamed.mindrecord{suffix}")
    with pytest.raises(ToolkitError, match=r"is the index of old.mindrecord: a MindRecord cannot be renamed"):
        run(capsys, tmp_path / "b/renamed.mindrecord", "--model_file", model_file)
    (tmp_path / "b/old.mindrecord.db").write_bytes(b"no database, whatever its name says" * 99)
    with pytest.raises(ToolkitError, match="not the index of a MindRecord"):
        run(capsys, tmp_path / "b/old.mindrecord", "--model_file", model_file)
    run(capsys, path, "--model_file", model_file, "--fix", tmp_path / "new.mindrecord")
    manifest = json.loads(manifest_path(tmp_path / "new.mindrecord").read_text())
    manifest["tokenizer_sha256"] = "0" * 64
    manifest_path(tmp_path / "new.mindrecord").write_text(json.dumps(manifest))
    code, text = run(capsys, tmp_path / "new.mindrecord", "--model_file", model_file)
    assert code == 1 and "made with another tokenizer" in text
    manifest["parts"][0]["sha256"] = "0" * 64
    manifest_path(tmp_path / "new.mindrecord").write_text(json.dumps(manifest))
    with pytest.raises(ToolkitError, match=r"new.mindrecord in .* changed since"):
        run(capsys, tmp_path / "new.mindrecord", "--model_file", model_file)


def test_nothing_to_keep_writes_nothing(tmp_path, capsys, model_file, samples):
    path = write(tmp_path / "a", [row(samples[0][0][:-4], samples[0][1])])
    with pytest.raises(ToolkitError, match="none of the 1 samples can be kept"):
        run(capsys, path, "--model_file", model_file, "--fix", tmp_path / "new.mindrecord")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("new")]
