"""InternLM2's tool calls: the prompt's form, and the `openai` package looping over two tools."""

import json

import pytest

from research_internlm.data.chat_template import render_messages
from research_internlm.data.tokens import load_tokenizer
from research_internlm.data.tool_calls import ToolCall, ToolTurn, read_call, render_with_tools
from research_internlm.inference.text_codec import TextCodec
from research_internlm.serving.app import Settings
from tests.helpers.scripted_model import internlm2_tokenizer, serving, started

openai = pytest.importorskip("openai", reason="the openai package is not installed (pip install -e '.[dev]')")

TOOLS = [{"type": "function", "function": {"name": name, "description": text, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}
    for name, text in (("weather", "Today's weather"), ("time", "The local time"))]
QUESTION = [{"role": "user", "content": "How is it in Bern?"}]


@pytest.fixture(scope="module")
def codec(demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("internlm2")
    path = internlm2_tokenizer(demo_data / "tokenizer.model", folder / "tokenizer.model")
    return TextCodec(path, load_tokenizer(path).vocab_size())


def call_ids(codec, *bodies, text=""):
    special, encode = codec.special, codec.processor.encode
    ids = encode(text)
    for body in bodies:
        ids += [special["action_start"], special["plugin"], *encode(f"\n{body}"), special["action_end"]]
    return ids


def shown(codec, segments):
    """A prompt as InternLM's documentation writes it."""
    names = {codec.special[role]: text for role, text in (
        ("bos", "<s>"), ("turn_start", "<|im_start|>"), ("end_of_user", "<|im_end|>"),
        ("plugin", "<|plugin|>"), ("action_start", "<|action_start|>"), ("action_end", "<|action_end|>"))}
    return "".join(names[codec.special[segment.content]] if segment.is_token else segment.content
                   for segment in segments)


def test_the_prompt_has_the_form_of_internlms_documentation(codec):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Weather?"},
             ToolTurn("Let me see.", (ToolCall("weather", {"city": "伯尔尼"}),)), ToolTurn('{"sky": "blue"}')]
    assert shown(codec, render_with_tools(turns, [{"name": "weather"}], "internlm2")) == (
        "<s><|im_start|>system\nBe kind.<|im_end|>\n"
        '<|im_start|>system name=<|plugin|>\n[{"name": "weather"}]<|im_end|>\n'
        "<|im_start|>user\nWeather?<|im_end|>\n"
        '<|im_start|>assistant\nLet me see.<|action_start|><|plugin|>\n{"name": "weather", "parameters": '
        '{"city": "伯尔尼"}}<|action_end|><|im_end|>\n'
        '<|im_start|>environment name=<|plugin|>\n{"sky": "blue"}<|im_end|>\n'
        "<|im_start|>assistant\n")


def test_without_tools_the_prompt_is_the_usual_one(codec):
    assert render_with_tools(QUESTION, [], "internlm2") == render_messages(QUESTION, "internlm2")


def test_the_ids_are_those_of_the_release(codec):
    """92541, 92540 and 92538 of 92544 pieces, counted from the end."""
    size = codec.special.vocab_size
    assert {role: size - id_ for role, id_ in codec.special.tool_ids.items()} == {
        "action_start": 92544 - 92541, "action_end": 92544 - 92540, "plugin": 92544 - 92538}
    assert "plugin" not in codec.special.manifest_entry()  # manifests stay as they were


@pytest.mark.parametrize(("body", "expected"), [
    ('{"name": "weather", "parameters": {"city": "Bern"}}', ToolCall("weather", {"city": "Bern"})),
    ('{"name": "weather", "arguments": {}}', ToolCall("weather", {})),
    ('{"name": "weather"}', ToolCall("weather", {})),
    ('{"name": "rocket", "parameters": {}}', None),
    ('{"name": ["weather"]}', None),
    ('{"name": "weather", "parameters": "Bern"}', None),
    ('[{"name": "weather"}]', None),
    ("weather(Bern)", None),
])
def test_what_counts_as_a_call(body, expected):
    assert read_call(body, ["weather", "time"]) == expected


def script(codec):
    """The model: asks for the weather, then for the time, then answers with both results."""
    answers = [call_ids(codec, '{"name": "weather", "parameters": {"city": "Bern"}}', text="Let me see."),
               call_ids(codec, '{"name": "time", "parameters": {"city": "Bern"}}'),
               codec.processor.encode("Sunny at noon.")]
    environment = codec.processor.encode("environment name=")

    def answer(ids):
        results = sum(ids[place:place + len(environment)] == environment for place in range(len(ids)))
        return answers[results]
    return answer


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_openai_package_loops_over_two_tools(codec, is_stream):
    functions = {"weather": lambda city: f"sunny in {city}", "time": lambda city: f"noon in {city}"}
    messages, used = list(QUESTION), []
    with serving(started(codec, script(codec), seq_length=1024), Settings()) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for _ in range(5):
            text, calls, finish = ask(client, messages, is_stream)
            if not calls:
                break
            assert finish == "tool_calls"
            messages.append({"role": "assistant", "content": text, "tool_calls": [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id_, name, arguments in calls]})
            for id_, name, arguments in calls:
                used.append((name, text))
                result = functions[name](**json.loads(arguments))
                messages.append({"role": "tool", "tool_call_id": id_, "content": result})
    assert used == [("weather", "Let me see."), ("time", "" if is_stream else None)]
    assert (text, finish) == ("Sunny at noon.", "stop")
    assert [message["content"] for message in messages if message["role"] == "tool"] == [
        "sunny in Bern", "noon in Bern"]


def ask(client, messages, is_stream):
    """Text, calls and reason of one answer."""
    asked = client.chat.completions.create(model="base", messages=messages, tools=TOOLS, temperature=0,
                                           stream=is_stream)
    if not is_stream:
        [choice] = asked.choices
        calls = choice.message.tool_calls or []
        return choice.message.content, [(c.id, c.function.name, c.function.arguments) for c in calls], (
            choice.finish_reason)
    text, calls, finish = "", [], None
    for chunk in asked:
        [choice] = chunk.choices
        text += choice.delta.content or ""
        calls += [(c.id, c.function.name, c.function.arguments) for c in choice.delta.tool_calls or []]
        finish = choice.finish_reason or finish
    return text, calls, finish


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_malformed_call_is_text(codec, is_stream):
    def answer(ids):
        return call_ids(codec, '{"name": "rocket"}', text="Hm. ")

    with serving(started(codec, answer, seq_length=1024), Settings()) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        text, calls, finish = ask(client, QUESTION, is_stream)
    assert not calls and finish == "stop"
    assert text.split() == ["Hm.", '{"name":', '"rocket"}']


def test_the_openai_package_reads_errors_and_lists_models(codec):
    with serving(started(codec, lambda ids: [400]), Settings(api_key="key-of-test")) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="key-of-test", max_retries=0)
        assert [model.id for model in client.models.list()] == ["base"]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="base", messages=[
                {"role": "user", "content": "long " * 2000}])
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="x")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
