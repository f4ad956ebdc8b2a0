"""What AnswerMonitor asks is read before training, and refused there."""

import json

import pytest

from preprocess import assistant_data
from research_internlm import recipes
from research_internlm.data.tokens import load_tokenizer
from research_internlm.recipes.data_check import check_data
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of, write_manifest
from research_internlm.training import answer_prompts, command
from tests.helpers.run_info import manifest


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    assistant_data.main(["--name_zh", "小宝", "--author_zh", "星河工作室", "--count", "2",
                         "--output", str(folder / "a.json")])
    return folder / "a.held_out.json"


@pytest.fixture
def resolve(root, demo_data):
    tokenizer = demo_data / "tokenizer.model"
    vocab = load_tokenizer(tokenizer).vocab_size()

    def make(*words, model_file=tokenizer):
        given = [] if model_file is None else ["--model_file", str(model_file)]
        return command.resolve(command.parse_arguments([
            "--config", f"{root}/yaml/lora_assistant.yaml", *given, f"model.model_config.vocab_size={vocab}",
            "--overlay", f"{root}/yaml/overlays/cpu_tiny_internlm2.yaml", *words]))

    return make


def found(recipe):
    return list(answer_prompts.problems(recipe))


def test_the_recipe_asks_its_own_questions(resolve):
    assert found(resolve()) == []


def test_the_tokenizer_is_needed_and_the_callback_can_be_left_out(resolve):
    [problem] = found(resolve(model_file=None))
    assert "needs the tokenizer of the weights: pass --model_file" in problem
    without = resolve("callbacks.AnswerMonitor=null", model_file=None)
    assert recipes.callback(without, "AnswerMonitor") is None and found(without) == []


def test_another_tokenizer_than_the_data_s_is_refused(resolve, tmp_path):
    data = tmp_path / "rows.mindrecord"
    recipe = resolve("do_eval=False", f"train_dataset.data_loader.dataset_dir={data}")
    vocab = recipes.model_config(recipe)["vocab_size"]
    data.write_bytes(b"rows")
    made = {"parts": [{"file": data.name, "bytes": 4, "sha256": sha256_of(data)}], "record_length": 257,
            "seq_length": 256, "packed": True, "special_ids": {"vocab_size": vocab}}
    own = sha256_of(recipes.callback(recipe, "AnswerMonitor")["model_file"])
    write_manifest(data, **manifest(1, **made, tokenizer_sha256=own))
    assert check_data(recipe, "x.yaml")["train_dataset"].tokenizer_sha256 == own
    write_manifest(data, **manifest(1, **made, tokenizer_sha256="0" * 64))
    with pytest.raises(ToolkitError, match="is not the tokenizer that the data was made with"):
        check_data(recipe, "x.yaml")


def test_held_out_questions_are_asked_and_judged(resolve, held_out, demo_data):
    recipe = resolve(f"callbacks.AnswerMonitor.prompts={held_out}")
    assert found(recipe) == []
    settings = recipes.callback(recipe, "AnswerMonitor")
    prompts = answer_prompts.read_prompts(settings["prompts"], settings["model_file"], 8,
                                          recipes.model_config(recipe))
    assert len(prompts.ids) == 98
    said = prompts.codec.processor.encode("我是小宝，星河工作室开发了我。")
    answers = prompts.answers([said] * 98, [True] * 98)
    assert {(answer.kind, answer.passed) for answer in answers} == {("identity", True), ("general", False)}


def test_a_file_of_lines_is_found_from_where_the_command_is_given(resolve, tmp_path, monkeypatch):
    (tmp_path / "questions.txt").write_text("Who are you?\n\n你是谁？\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = resolve("callbacks.AnswerMonitor.prompts=questions.txt")
    monkeypatch.chdir("/")
    settings = recipes.callback(recipe, "AnswerMonitor")
    prompts = answer_prompts.read_prompts(settings["prompts"], settings["model_file"], 8,
                                          recipes.model_config(recipe))
    assert [messages[0]["content"] for messages in prompts.questions] == ["Who are you?", "你是谁？"]


@pytest.mark.parametrize(("words", "said"), [
    (["callbacks.AnswerMonitor.prompts=[]"], "prompts must be a list of 1 to 1000 questions"),
    (["callbacks.AnswerMonitor.prompts=[1]"], "prompts must be a list of 1 to 1000 questions"),
    (["callbacks.AnswerMonitor.prompts={a: 1}"], "prompts must be a list of 1 to 1000 questions"),
    (["callbacks.AnswerMonitor.prompts=absent.json"], "absent.json does not exist"),
    (["callbacks.AnswerMonitor.every_n_steps=0"], "every_n_steps is 0, but has to be a whole number"),
    (["callbacks.AnswerMonitor.every_n_steps=1.5"], "every_n_steps is 1.5, but has to be a whole number"),
    (["callbacks.AnswerMonitor.max_new_tokens=-1"], "max_new_tokens is -1, but has to be a whole number"),
    (["callbacks.AnswerMonitor.max_new_tokens=250"], "more than the 6 tokens that max_new_tokens 250 leaves"),
    (["model.model_config.qkv_concat=True"], "needs plain layers: remove qkv_concat"),
    (["parallel.parallel_mode=1", "use_parallel=True"], "needs whole weights on a card"),
    (["model.model_config.vocab_size=17"], "the model has vocab_size 17"),
])
def test_what_cannot_be_asked_is_refused(resolve, words, said):
    [problem] = found(resolve(*words))
    assert said in problem


@pytest.mark.parametrize(("change", "said"), [
    (lambda file: file.update(questions=[]), "holds 0 questions"),
    (lambda file: file["questions"][0].update(messages=[]), "question 1 of .* does not end in a message"),
    (lambda file: file["questions"][0].update(messages=[{"role": "user"}]), "does not end in a message"),
    (lambda file: file["questions"][0].update(wanted=None), "does not say what is wanted"),
    (lambda file: file["identity"].pop("name_zh"), "identity.name_zh is missing; give the .held_out.json"),
    (lambda file: file["questions"][0]["messages"][0].update(role="tool"), "role"),
])
def test_a_changed_file_of_questions_is_refused(resolve, held_out, tmp_path, change, said):
    file = json.loads(held_out.read_text(encoding="utf-8"))
    change(file)
    path = tmp_path / "changed.held_out.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    [problem] = found(resolve(f"callbacks.AnswerMonitor.prompts={path}"))
    with pytest.raises(ToolkitError, match=said):
        raise ToolkitError(problem)
