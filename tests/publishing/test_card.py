"""The model card says what the run's files say, and which weights a score was measured on."""

import json

import pytest
import yaml

from research_internlm import publish
from research_internlm.publishing.sending import prepared
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json, write_manifest
from tests.helpers import finished_run
from tests.helpers.finished_run import HIDDEN, LAYERS, RANK, mmlu_result, squad_result

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures


@pytest.fixture
def folder(tmp_path):
    """An export of the weights with the sha256 `tuned`."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest(folder / "config.json", tool="t", inputs={"merged.ckpt": "tuned"})
    return folder


def text_of(folder, hub="modelscope", **options):
    with prepared(folder, hub, "user/model", **{"licence": "apache-2.0", **options}) as plan:
        return plan.card


def front_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_data_recipe_and_scores_are_the_runs(folder, run):
    write_json(run / "results_mmlu_base.json", mmlu_result(json.loads(
        (run / "run.json").read_text())["load_checkpoint_sha256"], 0.5))
    write_json(run / "results_squad_2.json", squad_result("elsewhere", 20.0, 10.0))
    text = text_of(folder, run=run, base_model="internlm/internlm-7b")
    assert f"| trainable parameters `trainable` | {LAYERS * 2 * RANK * 2 * HIDDEN:,} |" in text
    assert "| count out | 40 |" in text and "rank 8" in text
    rows = [line for line in text.splitlines() if "results_" in line]
    found = {row.rsplit("| ", 1)[1].strip(" |"): row for row in rows}
    assert "| these | 75.00% (95 %: 30.00% to 95.00%) | 4 |" in found["results_mmlu.json"]
    assert "held_out" in found["results_mmlu.json"]
    assert "| base model | 50.00%" in found["results_mmlu_base.json"]
    assert "| others: merged.ckpt | 20.00 / 10.00 | 3 |" in found["results_squad_2.json"]
    assert "- Base model: internlm/internlm-7b" in text and "- Licence: apache-2.0" in text


def test_accuracy_that_measures_memory_is_called_so(folder, run):
    assert "measures memory" not in text_of(folder, run=run)
    write_json(run / "results_mmlu.json", {**mmlu_result("tuned"),
                                           "evaluation_kind": "reordered_train_questions"})
    assert "measures memory" in text_of(folder, run=run)


@pytest.mark.parametrize("hub, keys", [
    ("modelscope", {"license", "tasks", "frameworks", "language", "base_model"}),
    ("modelers", {"license", "pipeline_tag", "frameworks", "library_name", "language", "base_model"}),
    ("openxlab", {"license"}),
])
def test_each_hub_gets_its_own_front_matter(folder, hub, keys):
    front = front_of(text_of(folder, hub, base_model="internlm/internlm-7b"))
    assert set(front) == keys and front["license"] == "apache-2.0"


def test_without_a_run_nothing_is_claimed(folder):
    text = text_of(folder)
    assert "not recorded" in text and "## Scores" not in text and "base_model" not in front_of(text)


@pytest.mark.parametrize("stated, named", [
    ("internlm/internlm-7b", True), ("/home/me/base", False), (None, False)])
def test_the_adapters_base_is_named_where_others_can_look_it_up(folder, stated, named):
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": stated})
    front = front_of(text_of(folder, "modelers"))
    assert front.get("base_model") == (stated if named else None) and front["library_name"] == "peft"


def test_the_folders_own_card_goes_as_it_is_and_may_state_the_licence(folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    assert text_of(folder, licence=None) is None
    with pytest.raises(ToolkitError, match=r"--license says apache-2\.0, .*README\.md says mit"):
        text_of(folder)
    (folder / "README.md").unlink()
    with pytest.raises(ToolkitError, match="no licence is stated and none is assumed"):
        text_of(folder, licence=None)


def test_the_dry_run_shows_card_metafile_and_files(folder, run, capsys):
    assert publish.main([str(folder), "--to", "openxlab", "--repo", "u/m", "--license", "mit", "--run",
                         str(run), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "## Scores" in shown and "Weights: config.json" in shown and "Dataset: SQuAD v1.1" in shown
    assert "config.json (2 bytes, sha256 44136fa355b3)" in shown and "3 file(s), " in shown
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "config.json.manifest.json"]


@pytest.mark.parametrize("repo", ["name", "a/b/c", "a/", "/b", "a b/c", "../b"])
def test_a_repository_is_user_and_name(folder, repo, capsys):
    with pytest.raises(SystemExit):
        publish.main([str(folder), "--to", "modelscope", "--repo", repo, "--license", "mit", "--dry_run"])
    assert "is not USER/NAME" in capsys.readouterr().err


def test_a_card_with_a_credential_is_refused(folder):
    with pytest.raises(ToolkitError, match="the model card would hold"):
        text_of(folder, base_model="https://me:hunter22@example.com/x")
