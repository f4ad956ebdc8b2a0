"""Which data a run refuses for its prompts."""

import pytest

from research_internlm.recipes.data_check import check_mindrecord, require_unchanged
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of, write_manifest
from tests.helpers.run_info import manifest


def check(folder, **facts):
    data = folder / "train.mindrecord"
    data.write_bytes(b"rows")
    parts = [{"file": data.name, "bytes": 4, "sha256": sha256_of(data)}]
    made = manifest(1, parts=parts, record_length=65, seq_length=64)
    del made["wordings"]  # as the files of earlier versions
    write_manifest(data, **made | facts)
    return check_mindrecord(data, 65, "--train_dataset", "x.yaml")


@pytest.mark.parametrize("facts", [
    {}, {"prompt_version": "internlm-chat-1+eos"}, {"wordings": []}, {"wordings": ["exam-1", "squad-1"]}])
def test_data_of_this_wording_is_accepted(tmp_path, facts):
    check(tmp_path, **facts)


@pytest.mark.parametrize(("facts", "words"), [
    ({"prompt_version": "internlm-chat-0"}, "prompt version internlm-chat-0"),
    ({"wordings": ["exam-1", "squad-0"]}, "in the wording squad-0, the toolkit's are exam-1, squad-1"),
])
def test_data_of_another_wording_is_refused(tmp_path, facts, words):
    with pytest.raises(ToolkitError, match=words):
        check(tmp_path, **facts)


def test_a_new_squad_wording_leaves_exam_data_valid(tmp_path, monkeypatch):
    monkeypatch.setattr("research_internlm.recipes.data_check.WORDINGS", ("exam-1", "squad-2"))
    check(tmp_path)
    check(tmp_path, wordings=["exam-1"])
    with pytest.raises(ToolkitError, match="squad-1"):
        check(tmp_path, wordings=["squad-1"])


def test_one_flipped_bit_of_a_part_is_found(tmp_path):
    parts = []
    for number in range(3):
        part = tmp_path / f"train.mindrecord{number}"
        part.write_bytes(b"rows" * 1000 + bytes([number]))
        parts.append({"file": part.name, "bytes": 4001, "sha256": sha256_of(part)})
    write_manifest(tmp_path / "train.mindrecord", **manifest(1, parts=parts))
    require_unchanged(tmp_path / "train.mindrecord", "--train_dataset")
    for number in (0, 2):
        part = tmp_path / f"train.mindrecord{number}"
        part.write_bytes(part.read_bytes()[:-1] + bytes([number ^ 16]))
    with pytest.raises(ToolkitError, match=r"--train_dataset: train\.mindrecord0, train\.mindrecord2 in "):
        require_unchanged(tmp_path / "train.mindrecord", "--train_dataset")


@pytest.mark.parametrize("parts", [[], [{"file": "train.mindrecord.db", "bytes": 4, "sha256": "0" * 64}]])
def test_a_manifest_without_a_mindrecord_is_refused(tmp_path, parts):
    with pytest.raises(ToolkitError, match="lists no MindRecord file"):
        check(tmp_path, parts=parts)
