"""Results of several files: all old ones or all new ones are seen, and one process makes them."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from research_internlm.shared import staging
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, write_json, write_manifest
from research_internlm.shared.result_set import result_set

CALLS = ("open", "mkdir", "replace", "unlink", "rmdir", "fsync", "ftruncate")  # what a kill can fall between


def make_files(place, version, overwrite):
    """Two files that belong together, and in version 1 a third."""
    outputs = {place / name: manifest_path(place / name) for name in ("a", "b")}
    with result_set(place / "a", overwrite, outputs) as results:
        for name in "abc" if version == 1 else "ab":
            (results.folder / name).write_text(f"{name}{version}")
        for name in "ab":
            write_manifest(results.folder / name, version=version)
        results.publish("c", "a", "b")


def make_folder(place, version, overwrite):
    with result_set(place / "out", overwrite, {place / "out": place / "out/w.manifest.json"}, (), True
                    ) as results:
        (results.folder / "out").mkdir()
        (results.folder / "out/w").write_text(f"w{version}")
        write_manifest(results.folder / "out/w", version=version)
        if version == 1:
            (results.folder / "out/old").write_text("w1")
        results.publish("out")


def seen(place):
    """Path -> content of all that a reader sees."""
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*")
            if path.is_file() and not staging.is_partial(path)}


def killed_before(number, make, *arguments):
    """Runs `make` in a process that ends like a killed one before its call of that number; its exit code."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(call):
            def wrapped(*given, **options):
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return call(*given, **options)
            return wrapped

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        make(*arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("make", [make_files, make_folder])
def test_a_kill_at_any_moment(tmp_path, make, there_before):
    for version in (1, 2):
        (tmp_path / f"{version}").mkdir()
        make(tmp_path / f"{version}", version, False)
    old, new = seen(tmp_path / "1"), seen(tmp_path / "2")
    code, number, states = 9, 0, set()
    while code == 9:
        place = tmp_path / f"at{number}"
        place.mkdir()
        if there_before:
            make(place, 1, False)
        code = killed_before(number, make, place, 2, there_before)
        state = seen(place)
        assert any(state.items() <= whole.items() for whole in (old, new)), (number, state)
        if make is make_folder:
            assert state in (old, new, {}), (number, state)
        if code == 9:
            with contextlib.suppress(ToolkitError) if state == new else contextlib.nullcontext():
                make(place, 2, there_before)
            assert seen(place) == new and not list(place.glob(".*")), number
        states.add(tuple(sorted(state.items())))
        number += 1
    assert code == 0 and number > 20 and len(states) > (2 if make is make_folder and there_before else 1)


def test_results_of_a_killed_run_are_put_in_place_before_anything_else(tmp_path, capsys):
    """Old and new are never lost together, also when the next run then fails."""
    make_folder(tmp_path, 1, False)
    number = 0
    while (tmp_path / "out").exists():
        assert killed_before(number, make_folder, tmp_path, 2, True) == 9
        number += 1
    with pytest.raises(RuntimeError), result_set(tmp_path / "out", False, {tmp_path / "out": None}, (), True):
        raise RuntimeError("a damaged input")
    assert (tmp_path / "out/w").read_text() == "w2" and not list(tmp_path.glob(".*"))
    assert "the last run was killed after it had made its results" in capsys.readouterr().out


def test_a_second_process_gets_one_clear_line(tmp_path):
    with staging.stage_of(tmp_path / "a", 0.0):
        with pytest.raises(ToolkitError, match=rf"a is being made by process {os.getpid()} on \S+: wait"), \
                result_set(tmp_path / "a", True):
            pass
        with staging.staging(tmp_path / "b", 0.0):
            pass  # another output in the same folder
    with result_set(tmp_path / "a", False):
        assert list(tmp_path.glob(".partial-a.d"))
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_owner_and_not_with_its_children(tmp_path):
    owner = os.fork()
    if owner == 0:
        with staging.stage_of(tmp_path / "a", 0.0) as stage:
            (stage.new / "half").write_text("half")
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            (tmp_path / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(owner, 0)
    try:
        with staging.stage_of(tmp_path / "a", 0.0) as stage:
            assert not list(stage.new.iterdir())  # what the dead one left is gone
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_many_processes_that_add_to_one_file_lose_nothing(tmp_path):
    from research_internlm.storage.links import Link, read_links, record

    children = []
    for number in range(6):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            with contextlib.suppress(BaseException):
                for part in range(5):
                    record(Link(file="f", bytes=1, sha256="0" * 64, url=f"u{number}.{part}"),
                           tmp_path / "l.json")
                code = 0
            os._exit(code)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert len(read_links(tmp_path / "l.json")) == 30 and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_goes_while_it_is_looked_at_is_made_again(tmp_path, monkeypatch):
    """mkdir finds it, then looks whether it is a folder; between the two its owner may remove it."""
    made, gone = Path.mkdir, []

    def mkdir(self, *arguments, **named):
        if self.name.startswith(".partial") and not gone:
            gone.append(self)
            raise FileExistsError(str(self))
        made(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with staging.staging(tmp_path / "l.json") as folder:
        assert folder.is_dir() and gone


def test_a_file_without_a_manifest_is_made_again_and_kept(tmp_path, capsys):
    """A kill cannot leave it, so it could be the user's own."""
    path = tmp_path / "a"
    path.write_text("mine")
    make_files(tmp_path, 2, False)
    assert path.read_text() == "a2" and (tmp_path / "a.without_manifest").read_text() == "mine"
    assert "a had no manifest, so it was not finished" in capsys.readouterr().out
    with pytest.raises(ToolkitError, match="exists already; pass --overwrite"):
        make_files(tmp_path, 2, False)
    manifest_path(path).unlink()
    with pytest.raises(ToolkitError, match="exists already; pass --overwrite"):  # one is kept already
        make_files(tmp_path, 2, False)
    make_files(tmp_path, 1, True)
    assert path.read_text() == "a1" and (tmp_path / "a.without_manifest").read_text() == "mine"


def test_where_there_are_no_locks_nobody_shares_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(staging.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(38, "no locks")))
    with staging.stage_of(tmp_path / "a", 0.0) as one, staging.stage_of(tmp_path / "a", 0.0) as two:
        assert one.folder != two.folder and staging.is_partial(one.new)
    write_json(tmp_path / "a", [1])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    (tmp_path / ".partial-a.d").symlink_to(tmp_path / "mine")
    with pytest.raises(ToolkitError, match="is a link"):
        write_json(tmp_path / "a", [1])
    assert (tmp_path / "mine/file").exists()


def test_a_refused_command_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), result_set(tmp_path / "new/deep/a", False):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
