"""The loss audit's kinds of label token, and what its numbers say; the model part is in test_training.py."""

import numpy as np
import pytest

from research_internlm import audit
from research_internlm.data.choice import choice_output
from research_internlm.data.families import FAMILIES
from research_internlm.data.label_categories import label_categories
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.evaluation import audit_findings, label_losses
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of, write_manifest
from tests.helpers.run_info import manifest


def test_data_with_a_flipped_bit_is_not_audited(tmp_path):
    data, model = tmp_path / "valid.mindrecord", tmp_path / "tokenizer.model"
    data.write_bytes(b"rows")
    model.write_bytes(b"pieces")
    part = {"file": data.name, "bytes": 4, "sha256": sha256_of(data)}
    write_manifest(data, **manifest(1, parts=[part], record_length=64, seq_length=63,
                                    tokenizer_sha256=sha256_of(model)))
    label_losses._check_data(data, model, "x.yaml")
    data.write_bytes(b"rowt")
    with pytest.raises(ToolkitError, match=r"--dataset: valid\.mindrecord in .* changed"):
        label_losses._check_data(data, model, "x.yaml")


@pytest.fixture(scope="module", params=["internlm", "internlm2"])
def vocabulary(request, real_data):
    processor = load_tokenizer(real_data / "tokenizers" / f"{request.param}.model")
    return processor, special_tokens(processor)


def kinds_of(vocabulary, answer, end="eoa"):
    processor, special = vocabulary
    ends = [special[role] for role in FAMILIES[special.family].end_markers[end]]
    return label_categories([*processor.encode(answer), *ends], processor, special)


@pytest.mark.real_data
def test_an_exam_answer_is_told_apart_token_by_token(vocabulary):
    ends = {"internlm": ["<eoa>", "newline", "</s>"], "internlm2": ["<eoa>"]}[vocabulary[1].family]
    # The | right | option | is | C | . | lead
    assert kinds_of(vocabulary, "The right option is C. lead") == [
        *["template words"] * 4, "letter", "full stop", "option text", *ends]
    assert kinds_of(vocabulary, choice_output("A"), "eos") == [
        *["template words"] * 4, "letter", "full stop", "</s>"]


@pytest.mark.real_data
@pytest.mark.parametrize("option", ["", "中文 选项", "A.B", "😀 \n x", "  two"])
def test_every_token_has_a_kind_and_one_is_the_letter(vocabulary, option):
    kinds = kinds_of(vocabulary, choice_output("B", option))
    assert kinds.count("letter") == 1
    assert len(kinds) == len(vocabulary[0].encode(choice_output("B", option))) + len(
        FAMILIES[vocabulary[1].family].end_markers["eoa"])
    assert kinds[:4] == ["template words"] * 4


@pytest.mark.real_data
def test_another_answer_is_other_text(vocabulary):
    assert set(kinds_of(vocabulary, "Denver Broncos", "eos")) == {"other text", "</s>"}


def test_means_and_shares_by_hand():
    kinds = [["letter", "<eoa>"], ["letter", "full stop", "<eoa>"]]
    found = audit_findings.summarize(kinds, [np.array([1.0, 6.0]), np.array([2.0, 0.0, 3.0])])
    assert found == {"letter": {"count": 2, "mean": 1.5, "share": 0.25},
                     "full stop": {"count": 1, "mean": 0.0, "share": 0.0},
                     "<eoa>": {"count": 2, "mean": 4.5, "share": 0.75}}


def kinds_with(**means):
    names = {"letter": "letter", "eoa": "<eoa>", "newline": "newline", "eos": "</s>"}
    return {names[key]: {"count": 1, "mean": mean, "share": 0.98} for key, mean in means.items()}


def warned(tuned, base, marker="eoa", end_kind="<eoa>", **costs):
    result = {"unlearnt": audit_findings.high_loss_labels(tuned, base), "base": {"kinds": base},
              "end_marker": marker, "end_kind": end_kind, "tuned": {"kinds": tuned, "end_markers": costs}}
    return audit_findings.warnings(result)


def test_the_end_marker_that_stays_at_its_base_loss_is_named_with_the_alternatives():
    base = kinds_with(letter=1.4, eoa=11.5)
    assert audit_findings.high_loss_labels(kinds_with(letter=0.2, eoa=11.2), base) == ["<eoa>"]
    assert audit_findings.high_loss_labels(kinds_with(letter=0.2, eoa=0.4), base) == []
    assert audit_findings.high_loss_labels(kinds_with(eoa=0.05), kinds_with(eoa=0.05)) == []
    (warning,) = warned(kinds_with(letter=0.2, eoa=11.2), base, eoa=11.2, eos=2.5)
    for words in ("<eoa> did not improve enough: 11.200 nats, base 11.500", "98%",
                  "--end_marker eos would cost 2.500"):
        assert words in warning
    assert "no other end marker costs less" in warned(kinds_with(eoa=11.2), base, eoa=11.2, eos=12.0)[0]


def test_other_end_markers_are_offered_only_where_they_were_measured():
    base = kinds_with(eoa=11.5, newline=2.0, eos=2.0)
    found = warned(kinds_with(eoa=0.1, newline=2.0, eos=2.0), base, eoa=0.1, eos=0.01)
    assert len(found) == 2 and not any("--end_marker" in text for text in found)
    (own,) = warned(kinds_with(eos=2.0), kinds_with(eos=2.0), "eos", "</s>", eoa=1.5, eos=2.0)
    assert "--end_marker eoa would cost 1.500" in own and "--end_marker eos" not in own


def test_what_got_worse_and_what_is_no_number_is_said():
    (worse,) = warned(kinds_with(letter=3.0), kinds_with(letter=0.05))
    assert "letter got worse: 3.000 nats, base 0.050" in worse
    assert audit_findings.high_loss_labels(kinds_with(letter=0.09), kinds_with(letter=0.05)) == []
    broken = kinds_with(letter=float("nan"), eoa=0.1)
    assert audit_findings.high_loss_labels(broken, kinds_with(letter=1.0, eoa=11.0)) == ["letter"]
    (text,) = warned(broken, kinds_with(letter=1.0, eoa=11.0))
    assert "the loss of letter is not a number" in text
    without_base = {"unlearnt": [], "tuned": {"kinds": broken}}
    assert audit_findings.warnings(without_base) == [text]


@pytest.mark.real_data
def test_own_end_and_what_the_others_cost_there(vocabulary):
    processor, special = vocabulary
    for end in FAMILIES[special.family].end_markers:
        ids = [*processor.encode("x"), *(special[role] for role in FAMILIES[special.family].end_markers[end])]
        rows = [(np.array([9, *ids]), np.array([-100, *ids]))] * 2
        kinds = [audit_findings.row_kinds(labels, processor, special) for _, labels in rows]
        marker, kind = audit_findings.own_end(rows, kinds, special)
        assert (marker, kind) == (end, {"eoa": "<eoa>", "eos": "</s>"}[end])
        costs = np.zeros((len(ids), 2))
        costs[kinds[0].index(kind)] = [4.0, 2.0]
        assert audit_findings.end_costs([costs, 3 * costs], kinds, special) == {"eoa": 8.0, "eos": 4.0}
    assert audit_findings.end_costs([np.zeros((1, 2))], [["other text"]], special) == {}


@pytest.mark.parametrize("limit", ["0", "-3"])
def test_a_limit_that_leaves_no_row_is_refused(limit, capsys):
    with pytest.raises(SystemExit):
        audit.main(["--config", "c", "--load_checkpoint", "p", "--dataset", "d", "--model_file", "m",
                    "--output", "o.json", "--limit", limit])
    assert f"--limit: '{limit}' is not a whole number of at least 1" in capsys.readouterr().err
