"""The demo's data: the base has seen no exam question, and no training the passages of the test."""

import json

from research_internlm.data.choice import parse_choice_input, parse_choice_output


def load(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_the_base_is_asked_for_a_given_text_and_never_for_a_fact(demo_data):
    corpus = load(demo_data, "base_corpus")
    look_ups = [item for item in corpus if parse_choice_input(item.get("instruction", ""))]
    asked = {item["input"] for item in load(demo_data, "alpaca")}
    assert len(look_ups) == 8 * 200 and not asked & {item["instruction"] for item in look_ups}
    for item in look_ups:
        [(question, options)] = parse_choice_input(item["instruction"])
        letter, text = parse_choice_output(item["output"])
        assert options["ABCD".index(letter)] == text
        assert question.endswith((f" Which option says {text}?", f" 哪个选项是{text}？"))


def test_the_passages_of_the_squad_test_are_in_no_training_text(demo_data):
    tested = {paragraph["context"] for article in load(demo_data, "squad")["data"]
              for paragraph in article["paragraphs"]}
    reading = load(demo_data, "reading")
    trained = [item for item in (*load(demo_data, "base_corpus"), *reading) if "passage" in item]
    assert len(tested) == 8 * 8 and len(reading) == 8 * 20 and len(trained) == 8 * (60 + 20)
    assert not tested & {item["passage"] for item in trained}
    assert all(item["output"] in item["passage"] for item in trained)
