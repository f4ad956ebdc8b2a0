"""The MindRecord converter: boundaries, ids equal to upstream's, counts, manifests, bad input."""

import resource
import subprocess
import sys

import pytest
import sentencepiece

from preprocess import alpaca_data_preprocess_v1
from research_internlm.data.chat_template import encode, render_messages
from research_internlm.data.tokens import special_tokens
from research_internlm.recipes.data_check import check_mindrecord, mindrecord_files
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest, write_manifest
from tests.helpers.alpaca import item, read_rows, upstream_ids, write_items
from tests.helpers.commands import ROOT, assert_user_error
from tests.helpers.warm import run_warm

SCRIPT = "preprocess/alpaca_data_preprocess_v1.py"


@pytest.fixture
def convert(demo_data, tmp_path):
    def run(items, seq_length, *more, check=True):
        source = write_items(tmp_path / "items.json", items)
        return run_warm(SCRIPT, "--input_glob", source, "--output_file", tmp_path / "out.mindrecord",
                          "--model_file", demo_data / "tokenizer.model", "--seq_length", seq_length, *more,
                          check=check)
    return run


@pytest.mark.model
@pytest.mark.parametrize(("spare", "kept"), [(-2, 0), (-1, 0), (0, 1), (1, 1), (2, 1)])
def test_every_boundary(demo_data, tmp_path, convert, spare, kept):
    """spare = row length minus tokens; upstream's n (tokens before </s>) is L - 1 at spare 0."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(demo_data / "tokenizer.model"))
    special = special_tokens(processor)
    long = item("Which of all these many words?")
    ids, answer_start = upstream_ids(long, processor, special["end_of_user"], special["end_of_assistant"])
    length = len(ids) + spare
    short = item("A?")
    convert([long, short], length - 1)
    rows = read_rows(tmp_path / "out.mindrecord")
    manifest = read_manifest(tmp_path / "out.mindrecord")
    assert len(rows) == kept + 1 == manifest["counts"]["out"]
    assert manifest["counts"]["in"] == 2 == manifest["counts"]["out"] + len(manifest["dropped"])
    assert all(len(i) == len(labels) == length and (labels != -100).any() for i, labels in rows)
    if kept:
        input_ids, labels = next(row for row in rows if row[0][len(ids) - 1] == 2)
        assert input_ids.tolist() == ids + [0] * spare
        assert labels.tolist() == [-100] * answer_start + ids[answer_start:] + [-100] * spare
    else:
        assert manifest["dropped"] == [{"item": "items.json item 1", "tokens": len(ids)}]


@pytest.mark.model
def test_partitions_hold_every_row_once_and_their_manifest_names_them(tmp_path, convert):
    convert([item(f"Number {n}?") for n in range(10)], 119, "--file_partition", 3)
    manifest = check_mindrecord(tmp_path / "out.mindrecord", 120, "--train_dataset", "x.yaml")
    assert [part.file for part in manifest.parts] == [
        f"out.mindrecord{n}{end}" for n in range(3) for end in ("", ".db")]
    import mindspore.dataset as ds

    data = ds.MindDataset(mindrecord_files(tmp_path / "out.mindrecord")[0], shuffle=False)
    rows = {tuple(row["input_ids"]) for row in data.create_dict_iterator(num_epochs=1, output_numpy=True)}
    assert len(rows) == 10
    convert([item()], 99, "--overwrite")
    left = sorted(path.name for path in tmp_path.glob("out.mindrecord*"))
    assert left == ["out.mindrecord", "out.mindrecord.db", "out.mindrecord.manifest.json"]


def test_input_manifests_are_read_before_the_work(demo_data, tmp_path):
    """A damaged one is said before the first item is looked at, which is no valid one here."""
    (tmp_path / "items.json").write_text("[1]")
    (tmp_path / "items.json.manifest.json").write_text("{}")
    with pytest.raises(ToolkitError, match=r"the manifest .*items.json.manifest.json is not valid"):
        alpaca_data_preprocess_v1.main([
            "--input_glob", str(tmp_path / "items.json"), "--output_file", str(tmp_path / "out.mindrecord"),
            "--model_file", str(demo_data / "tokenizer.model")])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.model
def test_the_manifest_names_the_tasks_wording(tmp_path, convert):
    reading = {"passage": "P", "question": "Q", "output": "A"}
    for items, wordings in (([item()], []), ([item(), reading], ["squad-1"])):
        convert(items, 99, "--overwrite")
        assert read_manifest(tmp_path / "out.mindrecord")["wordings"] == wordings
    write_manifest(tmp_path / "items.json", tool="t", inputs={}, counts={},
                   prompt_version="internlm-chat-1")  # of the time before wordings
    convert([item(), reading], 99, "--overwrite")
    assert read_manifest(tmp_path / "out.mindrecord")["wordings"] == ["exam-1", "squad-1"]


@pytest.mark.model
def test_conversations_of_all_forms_are_counted_and_lose_their_oldest_exchanges(demo_data, tmp_path, convert):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(demo_data / "tokenizer.model"))
    special = special_tokens(processor)
    turns = [("user", "Which is red?"), ("assistant", "That one."), ("user", "Now?"), ("assistant", "No.")]
    openai = [{"role": role, "content": text} for role, text in [("system", "Be short."), *turns]]
    sharegpt = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in turns]
    xtuner = [{"system": "Be short.", "input": turns[2][1], "output": turns[3][1]}]
    items = [{"messages": openai}, {"conversations": sharegpt}, {"conversation": xtuner}, item("long " * 90)]
    whole, rest = (encode(render_messages(messages), processor, special)
                   for messages in (openai, [openai[0], *openai[3:]]))
    length = len(whole[0]) - 1
    done = convert(items, length - 1, "--show", 1)
    manifest, rows = read_manifest(tmp_path / "out.mindrecord"), read_rows(tmp_path / "out.mindrecord")
    assert manifest["forms"] == {"openai": 1, "sharegpt": 1, "xtuner": 1, "alpaca": 1}
    assert manifest["counts"] == {"in": 4, "samples": 3, "out": 3, "dropped": {"overlong": 1}}
    assert manifest["shortened"] == [
        {"item": "items.json item 1", "tokens": length + 1, "exchanges_left_out": 1}]
    assert [entry["item"] for entry in manifest["dropped"]] == ["items.json item 4"]
    assert "1 conversations lost their oldest exchanges to fit, 1 in all" in done.stdout
    kept = [ids[:len(rest[0])].tolist() for ids, _ in rows]
    assert kept.count(rest[0]) == 2  # shortened, and XTuner's, which is the same without the first exchange
    assert_user_error(convert(items, length - 1, "--overwrite", "--overlong", "error", check=False),
                      f"items.json item 1 ({length + 1} tokens), items.json item 4")
    convert(items[1:3], length - 1, "--overwrite", "--train_on", "last")
    manifest = read_manifest(tmp_path / "out.mindrecord")
    assert manifest["train_on"] == "last" and manifest["shortened"] == []
    answer = encode(render_messages(openai), processor, special)
    supervised = [int((labels != -100).sum()) for _, labels in read_rows(tmp_path / "out.mindrecord")]
    assert supervised == [sum(rest[1])] * 2 < [sum(answer[1])] * 2


@pytest.mark.model
def test_show_marks_the_supervised_part(convert):
    done = convert([item()], 120, "--show", 1)
    assert "<bos><|User|>:Here is a question about numbers" in done.stdout
    assert "<|Bot|>:⟦The right option is B.two<eoa><newline><eos>⟧" in done.stdout


@pytest.mark.model
def test_outputs_are_kept_and_wrong_requests_end_in_one_line(tmp_path, demo_data, convert):
    convert([item()], 99)
    before = (tmp_path / "out.mindrecord").read_bytes()
    assert_user_error(convert([item()], 99, check=False), "exists already", "--overwrite")
    assert (tmp_path / "out.mindrecord").read_bytes() == before
    assert_user_error(convert([item()], 9, "--overwrite", check=False), "every one of the 1 items is longer")
    assert_user_error(convert([item(), item("long " * 90)], 99, "--overwrite", "--overlong", "error",
                              check=False), "items.json item 2", "--overlong drop")
    assert (tmp_path / "out.mindrecord").read_bytes() == before


@pytest.mark.model
def test_a_full_disk_leaves_nothing_behind(tmp_path, demo_data):
    source = write_items(tmp_path / "items.json", [item(f"Number {n}?") for n in range(50)])

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [sys.executable, SCRIPT, "--input_glob", source, "--output_file", tmp_path / "out.mindrecord",
         "--model_file", demo_data / "tokenizer.model", "--seq_length", "120"],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert_user_error(done, "could not write", "out.mindrecord", "free space")
    assert not [path for path in tmp_path.iterdir() if path != source]


@pytest.mark.model
def test_the_trainer_s_check_names_both_numbers(tmp_path, convert):
    convert([item()], 99)
    path = tmp_path / "out.mindrecord"
    assert check_mindrecord(path, 100, "--train_dataset", "x.yaml").seq_length == 99
    with pytest.raises(ToolkitError, match=r"100-token rows .*--seq_length 99.*x.yaml needs 200-token rows"):
        check_mindrecord(path, 200, "--train_dataset", "x.yaml")
    database = tmp_path / "out.mindrecord.db"
    kept = database.read_bytes()
    database.write_bytes(kept[:100])
    with pytest.raises(ToolkitError, match="its manifest says"):
        check_mindrecord(path, 100, "--train_dataset", "x.yaml")
    database.unlink()
    with pytest.raises(ToolkitError, match=r"out.mindrecord.db does not exist"):
        check_mindrecord(path, 100, "--train_dataset", "x.yaml")
    database.write_bytes(kept)
    manifest = tmp_path / "out.mindrecord.manifest.json"
    manifest.write_text(manifest.read_text().replace("internlm-chat-1", "internlm-chat-0"))
    with pytest.raises(ToolkitError, match="prompt version internlm-chat-0"):
        check_mindrecord(path, 100, "--train_dataset", "x.yaml")
    manifest.unlink()
    with pytest.raises(ToolkitError, match="has no manifest"):
        check_mindrecord(path, 100, "--train_dataset", "x.yaml")


@pytest.mark.parametrize("name", ["obs:", "a?.mindrecord", " a.mindrecord", "a.mindrecord "])
def test_a_name_that_mindspore_refuses_is_refused_before_the_work(tmp_path, demo_data, name):
    source = write_items(tmp_path / "items.json", [item("A?")])
    with pytest.raises(ToolkitError, match="cannot be the name of a MindRecord file"):
        alpaca_data_preprocess_v1.main([
            "--input_glob", str(source), "--output_file", str(tmp_path / name), "--seq_length", "64",
            "--model_file", str(demo_data / "tokenizer.model")])
