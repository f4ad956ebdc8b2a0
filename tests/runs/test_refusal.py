"""A refused command leaves nothing behind that only its checks made."""

import pytest

from research_internlm.runs.refusal import without_traces
from research_internlm.shared.errors import ToolkitError


def check(output, makes, error):
    with without_traces(output, output / ".lock", output / "log"):
        for name in makes:
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        raise error


@pytest.mark.parametrize("error", [ToolkitError("no"), KeyboardInterrupt()])
def test_a_folder_of_traces_goes_with_the_parents_that_were_made_for_it(tmp_path, error):
    with pytest.raises(type(error)):
        check(tmp_path / "a/b", [".lock", "log/rank_0/info.log"], error)
    assert list(tmp_path.iterdir()) == []


def test_what_is_more_than_a_trace_stays(tmp_path):
    with pytest.raises(ToolkitError):
        check(tmp_path / "a", [".lock", "checkpoint/x.ckpt"], ToolkitError("no"))
    assert (tmp_path / "a/checkpoint/x.ckpt").is_file() and (tmp_path / "a/.lock").is_file()


def test_a_folder_that_was_there_stays_as_it_is(tmp_path):
    with pytest.raises(ToolkitError):
        check(tmp_path, [".lock"], ToolkitError("no"))
    assert (tmp_path / ".lock").is_file()


def test_a_bug_keeps_everything(tmp_path):
    with pytest.raises(KeyError):
        check(tmp_path / "a", [".lock"], KeyError())
    assert (tmp_path / "a/.lock").is_file()
