"""A recipe of another form than the toolkit reads is refused, all of it at once."""

import pytest

from research_internlm import recipes
from research_internlm.shared.errors import ToolkitError


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_everything_wrong_is_listed_at_once(tmp_path):
    path = write(tmp_path, a="model: [1]\ncallbacks: {type: A}\n"
                             "runner_config: {sink_mode: 1}\nrun_mode: [predict]")
    with pytest.raises(ToolkitError) as error:
        recipes.resolve(path)
    for words in ("4 wrong setting(s)", "model must be a mapping of settings, found [1]",
                  "callbacks must be a list of components that each have a type or null, found {'type': 'A'}",
                  "runner_config.sink_mode must be bool or null, found 1",
                  "run_mode must be str or null, found ['predict']"):
        assert words in str(error.value)


def test_an_override_is_of_the_form_too(root):
    with pytest.raises(ToolkitError, match=r"callbacks must be a list .* found 'x'"):
        recipes.resolve(root / "yaml/lora_finetune.yaml", overrides=["callbacks=x"])


def test_every_shipped_recipe_has_the_form(root):
    for path in root.glob("yaml/**/*.yaml"):
        recipes.resolve(path)


@pytest.mark.parametrize("extends", ["5", "[null]", "[[a.yaml]]", '""'])
def test_extends_is_a_file_or_a_list_of_them(tmp_path, extends):
    path = write(tmp_path, a=f"extends: {extends}")
    with pytest.raises(ToolkitError, match="a yaml file or a list of them was expected"):
        recipes.resolve(path)


def test_a_plain_text_is_one_file(tmp_path):
    assert recipes.resolve(write(tmp_path, a="extends: b.yaml\nx: 1", b="y: 2")) == {"x": 1, "y": 2}


def test_a_circle_is_named(tmp_path):
    path = write(tmp_path, a="extends: [b.yaml]", b="extends: a.yaml")
    with pytest.raises(ToolkitError, match=r"a\.yaml extends itself: a\.yaml -> b\.yaml -> a\.yaml"):
        recipes.resolve(path)
