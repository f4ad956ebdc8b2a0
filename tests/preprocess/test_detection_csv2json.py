"""Csv of human and AI texts: forms, rules, counts, and splits that share nothing."""

import csv
import itertools
import json
import random
import re

import numpy as np
import pytest

from preprocess import detection_csv2json
from preprocess.detection import csv_rows, near_duplicates, splits, surface
from research_internlm.data.manifest import read_data_manifest
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest

WORDS = ["river", "paper", "window", "garden", "teacher", "summer", "engine", "letter", "market", "silver"]


def essay(seed, words=40):
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) + str(generator.randrange(30)) for _ in range(words))


def write(path, rows, header=("text", "label", "prompt_name", "source")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def run(folder, *paths, **options):
    output = folder / "out"
    words = [word for name, value in options.items()
             for word in (f"--{name}", *([] if value is True else str(value).split()))]
    detection_csv2json.main(["--csv", *map(str, paths), "--output_dir", str(output), "--num_workers", "1",
                             *words])
    return output


def items(output, side):
    return json.loads((output / f"{side}_detection.json").read_text(encoding="utf-8"))


def removed(output):
    lines = (output / "removed.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["id"]: line["reason"] for line in map(json.loads, lines)}


@pytest.fixture
def many(tmp_path):
    """600 essays: 5 prompts, 4 generators, and some near-duplicates."""
    rows = []
    for number in range(600):
        text = rows[-1][0] + " altogether" if number % 20 == 19 else essay(number)
        label = number % 2 if number % 20 != 19 else rows[-1][1]
        source = f"model{number % 8 // 2}" if label else "pupils"
        rows.append([text, label, f"prompt{number % 5}", source])
    return write(tmp_path / "many.csv", rows)


@pytest.mark.parametrize(("header", "row", "expected"), [
    (["id", "prompt_id", "text", "generated"], ["a1", "1", essay(1), "1"],
     (1, "f", "Does the electoral college work?")),
    (["text", "label", "source", "fold", "prompt"], [essay(1), "0.0", "persuade", "3", "Cars"],
     (0, "persuade", "Cars")),
    (["RDizzl3_seven", "source", "prompt_name", "label", "text", ""],
     ["True", "gen", "Cars", "true", essay(1), "7"], (1, "gen", "Cars")),
    (["text", "label"], [essay(1), "FALSE"], (0, "f", "")),
])
def test_forms_are_known_by_their_columns(tmp_path, header, row, expected):
    file = csv_rows.open_csv(write(tmp_path / "f.csv", [row], header))
    found, = file.read()
    assert (found.label, found.source, found.prompt) == expected
    assert found.text == essay(1) and found.id == "f.csv:1" and not file.extra


# As pandas writes the files in circulation: texts over several lines, doubled quotes, index columns, floats
# where a label is missing, empty cells for NaN. Our own rows.
COLLEGE, CARS = "Does the electoral college work?", "Car-free cities"
CIRCULATING = {
    "competition": (
        'id,prompt_id,text,generated\n0059830c,0,"Cars.\n\nThey are ""old"".",0\n005db917,1,Dear Senator,1\n',
        [(0, "f", CARS, 'Cars.\n\nThey are "old".'), (1, "f", COLLEGE, "Dear Senator")]),
    "proper": (
        'text,label,source,fold,prompt\n"A, b",0,persuade_corpus,4,Write a letter\n'
        ' The b,1,llama2_chat,-1,\n',
        [(0, "persuade_corpus", "Write a letter", "A, b"), (1, "llama2_chat", "", " The b")]),
    "v2": (
        'text,label,prompt_name,source,RDizzl3_seven\n'
        '"Phones\n\nare",0,Phones and driving,persuade_corpus,False\n'
        f'Sure,1,{CARS},mistral7binstruct_v2,True\n',
        [(0, "persuade_corpus", "Phones and driving", "Phones\n\nare"),
         (1, "mistral7binstruct_v2", CARS, "Sure")]),
    "v3": (
        f',text,label,prompt_name,source,RDizzl3_seven\n0,,1.0,{CARS},ada,True\n'
        f'1,nan,0.0,{CARS},persuade,True\n2,A text,,{CARS},ada,True\n',
        [(1, "ada", CARS, ""), (0, "persuade", CARS, "nan"), (None, "ada", CARS, "A text")]),
    "v4": (
        f'text,label,prompt_name,source,RDizzl3_seven\r\n"One\r\ntwo",1,{COLLEGE},kingki19_palm,True\r\n',
        [(1, "kingki19_palm", COLLEGE, "One\r\ntwo")]),
    "v4 magic": ('text,label\nSome text,1\n', [(1, "f", "", "Some text")]),
}


@pytest.mark.parametrize("form", CIRCULATING)
def test_the_forms_in_circulation_are_read_as_they_stand(tmp_path, form):
    content, expected = CIRCULATING[form]
    (tmp_path / "f.csv").write_bytes(content.encode())
    file = csv_rows.open_csv(tmp_path / "f.csv")
    assert [(row.label, row.source, row.prompt, row.text) for row in file.read()] == expected
    assert not file.extra


def test_columns_that_are_left_out_are_said(tmp_path):
    file = csv_rows.open_csv(write(tmp_path / "f.csv", [[essay(1), 1, "x"]], ("text", "label", "grade")))
    assert file.extra == ["grade"]


@pytest.mark.parametrize(("content", "words"), [
    (b"essay,label\na,1\n", "no text column"),
    (b"text,source\na,b\n", "no label column"),
    (b"text,label,generated\na,1,1\n", "more than one label column"),
    (b"text,label\na,2\nb,1\n", "1 faulty rows: line 2: label '2' is not 0"),
    (b"text,label\na,b,1\n", "line 2: 3 cells where the header has 2"),
    (b'text,label\n"a,1\nb,0\n', "line 2: not csv"),
    (b'text,label\n"a" b,1\n', "line 2: not csv"),
    (b"text,label\ncaf\xe9,1\n", "not UTF-8: byte 0xe9 at offset 14 (line 2)"),
    (b"text,label\n", "holds a header row and no text"),
])
def test_a_file_that_is_not_such_a_csv_is_refused_in_one_line(tmp_path, content, words):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(ToolkitError, match=re.escape(words)):
        run(tmp_path, tmp_path / "f.csv")
    assert not (tmp_path / "out").exists()


def test_one_class_alone_is_refused(tmp_path):
    path = write(tmp_path / "f.csv", [[essay(seed), 1, "p", "s"] for seed in range(30)])
    with pytest.raises(ToolkitError, match="no human text is left of 30 rows"):
        run(tmp_path, path)


RULE_ROWS = [
    *[[essay(seed), seed % 2, "p", "s"] for seed in range(40)],        # 1 to 40
    ["", 1, "p", "s"], [essay(90), "", "p", "s"], ["nan", 0, "p", "s"],  # 41 missing, 42 missing, 43 short
    [f"  {essay(0)}\n", 0, "p", "s"],                                  # 44 equals 1 without its blanks
    [essay(1) + " more", 1, "p", "s"],                                 # 45 near 2
    [essay(2), 1, "p", "s"],                                           # 46 equals 3, with the other label
    [essay(3) + " more", 0, "p", "s"],                                 # 47 near 4, with the other label
]
REMOVED = {41: "missing_text", 42: "missing_label", 43: "too_short", 44: "duplicate", 45: "near_duplicate",
           3: "both_labels", 46: "both_labels", 4: "near_duplicates_with_both_labels",
           47: "near_duplicates_with_both_labels"}


def test_rows_in_are_items_and_listed_rows(tmp_path):
    output = run(tmp_path, write(tmp_path / "f.csv", RULE_ROWS), valid_share=0.2, test_share=0.2)
    assert removed(output) == {f"f.csv:{number}": reason for number, reason in REMOVED.items()}
    kept = [item["id"] for side in splits.SIDES for item in items(output, side)]
    assert sorted(kept + list(removed(output))) == sorted(f"f.csv:{number}" for number in range(1, 48))
    counts = read_data_manifest(output / "test_detection.json").counts
    assert counts["rows_in"] == 47 == len(kept) + sum(counts["removed"].values())
    assert len(kept) == sum(counts[side] for side in splits.SIDES)
    assert read_manifest(output / "test_detection.json")["near_duplicates"] == {
        "clusters": 4, "texts": 8, "largest": 2, "with_both_labels": 2,
        "listed": [[f"f.csv:{number}", f"f.csv:{43 + number}"] for number in (1, 2, 3, 4)]}


@pytest.mark.parametrize(("options", "back"), [
    ({"min_words": 0}, {43}), ({"keep": "duplicates"}, {44}), ({"keep": "near_duplicates"}, {45}),
    ({"keep": "both_labels"}, {3, 4}),
    ({"keep": "both_labels duplicates near_duplicates"}, {3, 4, 44, 45, 46, 47})])
def test_each_rule_is_a_switch(tmp_path, options, back):
    output = run(tmp_path, write(tmp_path / "f.csv", RULE_ROWS), valid_share=0.2, test_share=0.2, **options)
    assert {int(id_.split(":")[1]) for id_ in removed(output)} == REMOVED.keys() - back


def test_missing_rows_can_be_an_error(tmp_path):
    with pytest.raises(ToolkitError, match=r"2 rows lack a text or a label: f\.csv:41, f\.csv:42"):
        run(tmp_path, write(tmp_path / "f.csv", RULE_ROWS), missing="error")


def test_surface_marks_are_taken_out_counted_and_kept_on_request(tmp_path):
    def marked(seed):
        return f" {essay(seed)}\u00a0it\x92s\u200d\r\nok " if seed % 2 == 0 and seed < 20 else essay(seed)

    path = write(tmp_path / "f.csv", [[marked(seed), seed % 2, "p", "s"] for seed in range(40)])
    output = run(tmp_path, path, valid_share=0.2, test_share=0.2)
    texts = {item["id"]: item for side in splits.SIDES for item in items(output, side)}
    assert texts["f.csv:1"]["text"] == f"{essay(0)} it’s\nok"
    assert texts["f.csv:1"]["marks"] == list(surface.MARKS) and texts["f.csv:2"]["marks"] == []
    facts = read_manifest(output / "test_detection.json")["surface"]
    assert facts["texts_with_mark"]["no_break_space"] == {"human": 10, "AI": 0}
    assert facts["accuracy_of_marks_alone"]["no_break_space"] == 0.75  # 10 humans with it, 20 AI without
    kept = run(tmp_path, path, valid_share=0.2, test_share=0.2, keep_surface=True, overwrite=True)
    assert marked(0) in [item["text"] for side in splits.SIDES for item in items(kept, side)]


@pytest.mark.parametrize("hold_out", splits.HOLD_OUTS)
def test_no_cluster_prompt_or_generator_crosses(tmp_path, many, hold_out):
    output = run(tmp_path, many, hold_out=hold_out, keep="near_duplicates", valid_share=0.2, test_share=0.2)
    sides = {side: items(output, side) for side in splits.SIDES}
    for one, other in itertools.combinations(splits.SIDES, 2):
        def shared(field, rows=(sides[one], sides[other])):
            return set.intersection(*({item[field] for item in side if field != "source" or item["label"]}
                                      for side in rows))
        assert not shared("cluster")
        assert bool(shared("prompt")) != (hold_out in ("prompts", "both"))
        assert bool(shared("source")) != (hold_out in ("generators", "both"))
    assert all({item["label"] for item in side} == {0, 1} for side in sides.values())
    counts = read_data_manifest(output / "train_detection.json").counts
    assert counts["rows_in"] == 600 == (sum(map(len, sides.values())) + sum(counts["set_aside"].values()))
    assert len(removed(output)) == sum(counts["set_aside"].values())


def test_random_split_keeps_the_shares_of_each_source_and_is_seeded(tmp_path, many):
    output = run(tmp_path, many)
    test = items(output, "test")
    assert 0.4 < np.mean([item["label"] for item in test]) < 0.6
    assert len({item["source"] for item in test}) == 5
    first = [item["id"] for item in test]
    assert [item["id"] for item in items(run(tmp_path, many, overwrite=True), "test")] == first
    assert [item["id"] for item in items(run(tmp_path, many, overwrite=True, seed=1), "test")] != first


def test_a_sample_is_drawn_and_the_rest_is_listed(tmp_path, many):
    output = run(tmp_path, many, sample=0.3)
    counts = read_data_manifest(output / "train_detection.json").counts
    assert abs(counts["clean"] - counts["set_aside"]["not_sampled"] - 0.3 * counts["clean"]) < 10
    assert len(removed(output)) == 600 - sum(counts[side] for side in splits.SIDES)


def test_too_few_groups_to_hold_out_are_refused(tmp_path):
    path = write(tmp_path / "f.csv", [[essay(seed), seed % 2, f"p{seed % 2}", "s"] for seed in range(40)])
    with pytest.raises(ToolkitError, match=r"needs 3 prompts or more.*found 2 \('p0', 'p1'\)"):
        run(tmp_path, path, hold_out="prompts")


def test_class_weights_repeat_training_texts_only(tmp_path, many):
    output = run(tmp_path, many, class_weights="2 0.5")
    manifest = read_manifest(output / "train_detection.json")
    train = items(output, "train")
    human, ai = manifest["per_class"]["human"], manifest["per_class"]["AI"]
    assert sum(item["label"] == 0 for item in train) == 2 * human
    assert abs(sum(item["label"] == 1 for item in train) - ai / 2) < 30 and manifest["items"] == len(train)
    test = read_manifest(output / "test_detection.json")
    assert len(items(output, "test")) == sum(test["per_class"].values()) == test["items"]


def test_similar_texts_are_found_and_others_are_not():
    """Against all pairs, compared one by one."""
    generator = random.Random(3)
    texts = []
    for number in range(60):
        base = essay(number, 60).split()
        texts.append(base)
        changed = list(base)
        for place in generator.sample(range(60), number // 6):
            changed[place] = "other"
        texts.append(changed)
    sets = [{tuple(text[place:place + 3]) for place in range(len(text) - 2)} for text in texts]
    signer = near_duplicates.Signer()
    shingles = [signer.shingles(text) for text in texts]
    signatures = np.array([signer.signature(own) for own in shingles])
    found = near_duplicates.cluster(signatures, shingles.__getitem__, 0.7,
                                    near_duplicates.Clusters(len(texts)))
    near = [len(one & other) / len(one | other) >= 0.7
            for one, other in zip(sets[::2], sets[1::2], strict=True)]
    assert [found[2 * place] == found[2 * place + 1] for place in range(60)] == near
    assert 10 < sum(near) < 50 and len(set(found)) == 120 - sum(near)


def test_chinese_characters_are_words():
    assert near_duplicates.words_of("今天 it’s 3，Größe") == ["今", "天", "it", "s", "3", "größe"]
