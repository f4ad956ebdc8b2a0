"""The layout of a run folder."""

from pathlib import Path

import pytest

from research_internlm.shared import run_layout


def test_a_run_has_both_its_files(tmp_path):
    assert run_layout.missing_identity(tmp_path) == ["run.json", "resolved_config.yaml"]
    (tmp_path / "run.json").touch()
    assert run_layout.missing_identity(tmp_path) == ["resolved_config.yaml"]
    assert not run_layout.is_run(tmp_path)
    (tmp_path / "resolved_config.yaml").touch()
    assert run_layout.is_run(tmp_path)


def test_checkpoints_are_those_in_folders_of_ranks(tmp_path):
    folder = run_layout.checkpoint_dir(tmp_path)
    wanted = [run_layout.rank_dir(folder, rank) / name
              for rank, name in ((0, "a.ckpt"), (0, "b.ckpt"), (11, "a.ckpt"))]
    others = [folder / "rank_0" / "meta.json", folder / "rank_0_backup" / "a.ckpt", folder / "a.ckpt",
              run_layout.rank_dir(run_layout.adapter_dir(tmp_path), 0) / "a.ckpt"]
    for path in (*wanted, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "rank_0" / "folder.ckpt").mkdir()
    assert run_layout.rank_files(folder) == wanted
    assert run_layout.rank_files(folder, 0) == wanted[:2]
    assert run_layout.rank_files(folder, 1) == []
    assert run_layout.rank_files(folder, suffixes=(".json",)) == [folder / "rank_0" / "meta.json"]
    assert [run_layout.rank_of(path) for path in (*wanted, *others)] == [0, 0, 11, 0, None, None, 0]


@pytest.mark.parametrize(("name", "found"), [
    ("run/checkpoint/rank_0/x.ckpt", "run"), ("run/checkpoint_trainable/rank_12/x.ckpt", "run"),
    ("run/checkpoint_network/rank_0/x.ckpt", "run"), ("run/checkpoint/x.ckpt", None),
    ("run/checkpoint/rank_0_backup/x.ckpt", None), ("run/old/mine/x.ckpt", None)])
def test_the_run_of_a_checkpoint(name, found):
    assert run_layout.run_of(Path(name)) == (found and Path(found))


def test_another_rank_s_name():
    assert run_layout.for_rank("lora_rank_3-1_4.ckpt", 12) == "lora_rank_12-1_4.ckpt"
    assert run_layout.for_rank("lora_rank: 8", 0) == "lora_rank: 8"


def test_what_lies_among_checkpoints():
    assert run_layout.in_checkpoints("checkpoint/rank_0/meta.json")
    assert run_layout.in_checkpoints("checkpoint_trainable/rank_0/meta.json")
    assert not run_layout.in_checkpoints("msrun_log/checkpoint/x.json")
    assert not run_layout.in_checkpoints("results_mmlu.json")


def test_attempts_are_counted_by_number(tmp_path):
    assert run_layout.next_attempt_dir(tmp_path).name == "attempt-001"
    logs = tmp_path / "msrun_log"
    for name in ("attempt-002", "attempt-999", "attempt-1000", "attempt-x", "attempt-1-copy"):
        (logs / name).mkdir(parents=True)
    assert list(run_layout.attempt_dirs(tmp_path).items()) == [
        (2, logs / "attempt-002"), (999, logs / "attempt-999"), (1000, logs / "attempt-1000")]
    assert run_layout.next_attempt_dir(tmp_path).name == "attempt-1001"


def test_results_lie_anywhere_but_are_no_predictions_and_no_manifests(tmp_path):
    results, log = run_layout.evaluation_files(tmp_path, "squad", "base")
    assert (results.name, log.name) == ("results_squad_base.json", "squad_base.log")
    (tmp_path / "more").mkdir()
    for path in (results, results.with_suffix(run_layout.PREDICTIONS), tmp_path / "more" / "results.json",
                 tmp_path / "results.json.manifest.json", tmp_path / "other.json"):
        path.touch()
    assert run_layout.result_files(tmp_path) == [tmp_path / "more" / "results.json", results]


def test_each_machine_of_a_run_has_a_lock(tmp_path):
    assert [run_layout.lock_file(tmp_path, node).name for node in ("0", "3")] == [".lock", ".lock-3"]


def test_unfinished_results_are_no_results(tmp_path):
    wanted = tmp_path / "results_a.json"
    unfinished = tmp_path / f".partial-{wanted.name}.d/new" / wanted.name
    for path in (wanted, unfinished, tmp_path / "results_a.predictions.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run_layout.result_files(tmp_path) == [wanted]
