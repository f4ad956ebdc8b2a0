"""The server as its clients see it: answers, errors, limits, and clients that go away. No network model."""

import json
import threading
import time

import httpx
import jinja2
import pytest

from research_internlm.data.chat_template import render_messages
from research_internlm.serving.app import Settings
from tests.helpers.scripted_model import serving, started

PARIS = "Paris is the capital."


@pytest.fixture(scope="module")
def prompts():
    return []


@pytest.fixture(scope="module")
def client(codec, prompts):
    """A client of a server whose model answers PARIS."""
    def answer(ids):
        prompts.append(ids)
        return codec.processor.encode(PARIS)

    settings = Settings(max_bytes=20_000, root_path="/proxy/8000")
    with (serving(started(codec, answer, limit=8), settings) as url,
          httpx.Client(base_url=url, timeout=20) as client):
        yield client


def ask(client, **body):
    return client.post("/v1/chat/completions", json=body)


def complete(client, **body):
    done = client.post("/v1/completions", json=body)
    assert done.status_code == 200, done.text
    return done.json()


def events(done):
    """The chunks of a stream; it ends as OpenAI's."""
    *lines, last = [line.removeprefix("data: ") for line in done.text.split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_chat_is_rendered_as_in_training_and_answered(client, codec, prompts):
    parts = [{"type": "text", "text": text} for text in ("Where", "?")]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    # What harnesses send: null fields and fields of others.
    done = ask(client, model="base", messages=messages, max_tokens=50, temperature=0, stop=None, n=1,
               logprobs=False, top_logprobs=None, frequency_penalty=0, user="x", stream=False).json()
    assert done["object"] == "chat.completion" and done["model"] == "base"
    [choice] = done["choices"]
    assert choice["message"] == {"content": PARIS, "tool_calls": None, "role": "assistant"}
    assert choice["finish_reason"] == "stop" and choice["logprobs"] is None
    messages[1] = {"role": "user", "content": "Where?"}
    assert prompts[-1] == codec.encode(render_messages(messages))
    count = len(codec.processor.encode(PARIS))
    assert done["usage"] == {"prompt_tokens": len(prompts[-1]), "completion_tokens": count,
                             "total_tokens": len(prompts[-1]) + count}


def test_a_chat_streams(client):
    done = ask(client, messages=[{"role": "user", "content": "Where?"}], stream=True,
               stream_options={"include_usage": True})
    assert done.headers["content-type"].startswith("text/event-stream")
    *chunks, end, usage = events(done)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == PARIS
    assert end["choices"][0]["finish_reason"] == "stop" and end["choices"][0]["delta"] == {}
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 0
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, end, usage]}) == 1


def test_log_probabilities_of_a_chat(client, codec):
    done = ask(client, messages=[{"role": "user", "content": "Where?"}], logprobs=True, top_logprobs=2,
               max_tokens=2).json()
    assert done["choices"][0]["finish_reason"] == "length"
    first, _ = done["choices"][0]["logprobs"]["content"]
    assert first["token"] == codec.token_text(codec.processor.encode(PARIS)[0])
    assert abs(first["logprob"]) < 1e-3 and len(first["top_logprobs"]) == 2
    assert first["top_logprobs"][0]["logprob"] == first["logprob"] > first["top_logprobs"][1]["logprob"]


def test_a_stop_text_ends_the_answer_also_within_a_stream(client):
    question = {"messages": [{"role": "user", "content": "Where?"}], "stop": [" cap", "zzz"]}
    choice = ask(client, **question).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Paris is the", "stop")
    chunks = events(ask(client, **question, stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Paris is the"


def test_completions_of_texts_and_ids(client, codec, prompts):
    bos, ids = codec.special["bos"], codec.processor.encode("The capital?")
    one = complete(client, prompt="The capital?", max_tokens=50)
    assert prompts[-1] == [bos, *ids]  # a text begins as every sample of the training
    assert one["choices"][0]["text"] == PARIS
    complete(client, prompt=ids, max_tokens=1)
    assert prompts[-1] == ids  # ids are taken as they are
    many = complete(client, prompt=["A", "B", "C"], max_tokens=2)
    assert [choice["index"] for choice in many["choices"]] == [0, 1, 2]
    assert [choice["finish_reason"] for choice in many["choices"]] == ["length"] * 3
    assert len(codec.processor.encode(PARIS)) > 2
    streamed = events(client.post("/v1/completions", json={"prompt": "A", "stream": True, "max_tokens": 50}))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == PARIS


def test_echo_with_log_probabilities_scores_the_prompt_and_one_token_more(client, codec):
    """What lm-evaluation-harness asks for; the values are the scripted scorer's rule."""
    ids = [400, 401, 500, 501]
    done = complete(client, prompt=[ids, ids[:2]], max_tokens=1, temperature=0, logprobs=1, echo=True,
                    seed=1234)
    found = done["choices"][0]["logprobs"]
    text = [codec.token_text(token) for token in (*ids, 502)]
    assert found["tokens"] == text
    assert found["token_logprobs"] == [None, -0.5, -2.0, -0.5, -0.5]
    assert found["top_logprobs"] == [None, {text[1]: -0.5}, {codec.token_text(402): -0.5, text[2]: -2.0},
                                     {text[3]: -0.5}, {text[4]: -0.5}]
    assert found["text_offset"][0] == 0 and len(found["text_offset"]) == 5
    assert len(done["choices"][1]["logprobs"]["tokens"]) == 3
    assert done["usage"] == {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
    whole = complete(client, prompt=ids, max_tokens=3, temperature=0, logprobs=0, echo=True)["choices"][0]
    assert len(whole["logprobs"]["tokens"]) == 4 + 3
    assert whole["text"].startswith(codec.decode(ids))
    assert len(complete(client, prompt=ids, max_tokens=0, logprobs=1, echo=True)
               ["choices"][0]["logprobs"]["tokens"]) == 4


def test_tokens_for_clients_that_have_no_tokenizer(client, codec):
    ids = codec.processor.encode("The capital?")
    plain = {"prompt": "The capital?", "add_special_tokens": False}
    assert client.post("/tokenize", json=plain).json()["tokens"] == ids
    assert client.post("/tokenize", json={"prompt": "The capital?"}).json()["tokens"] == [1, *ids]
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "The capital?"}
    info = client.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    messages = [{"role": "user", "content": "Where?"}]
    text = jinja2.Template(info["chat_template"]).render(messages=messages)
    assert client.post("/tokenize", json={"prompt": text}).json()["tokens"] == codec.encode(
        render_messages(messages))


def test_models_health_metrics_and_a_proxys_path(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base"]
    assert client.get("/proxy/8000/v1/models/base").json()["max_model_len"] == 256
    assert client.get("/health").json() == {"status": "ok"}
    page = client.get("/metrics").text
    assert 'internlm_requests_total{path="/v1/models",status="200"}' in page
    for name in ("internlm_waiting 0.0", "internlm_running 0.0", "internlm_new_tokens_total",
                 "internlm_request_seconds_bucket"):
        assert name in page


MESSAGES = [{"role": "user", "content": "Where?"}]


@pytest.mark.parametrize(("body", "status", "code", "words"), [
    ({}, 400, None, "messages is missing"),
    ({"messages": []}, 400, None, "messages is empty"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, None, "'robot'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None, "text parts"),
    ({"messages": [*MESSAGES, {"role": "assistant", "content": "x"}]}, 400, None, "nothing to answer"),
    ({"messages": MESSAGES, "model": "other"}, 404, "model_not_found", "there is base"),
    ({"messages": MESSAGES, "temperature": -1}, 400, None, "temperature is -1"),
    ({"messages": MESSAGES, "n": 2}, 400, None, "n is 2"),
    ({"messages": MESSAGES, "max_tokens": "many"}, 400, None, "max_tokens is 'many'"),
    ({"messages": MESSAGES, "presence_penalty": 1}, 400, None, "presence_penalty"),
    ({"messages": MESSAGES, "stop": [""]}, 400, None, "stop must be"),
    ({"messages": MESSAGES, "response_format": {"type": "json_object"}}, 400, None, "response_format"),
    ({"messages": MESSAGES, "tools": [{"function": {"name": "f"}}]}, 400, None, "no tokens for tool"),
    ({"messages": [{"role": "user", "content": "long " * 1000}]}, 400, "context_length_exceeded", "tokens"),
    ({"messages": [{"role": "user", "content": "x" * 30_000}]}, 413, "request_too_large", "20,000 bytes"),
])
def test_wrong_requests_are_told_in_openais_form(client, body, status, code, words):
    done = ask(client, **body)
    error = done.json()["error"]
    assert (done.status_code, error["code"]) == (status, code)
    assert words in error["message"] and error["type"] == "invalid_request_error"


def test_what_is_not_json_and_unknown_paths(client):
    for content, kind in ((b"{", "application/json"), (b"\xff", "application/json")):
        done = client.post("/v1/completions", content=content, headers={"Content-Type": kind})
        assert done.status_code == 400 and "not JSON" in done.json()["error"]["message"]
    assert client.post("/v1/completions", data={"prompt": "x"}).status_code == 415
    assert client.get("/nothing").json()["error"]["message"].startswith("GET /nothing")
    for prompt in ([], [[]], [1, "a"], 5, [99_999]):
        assert client.post("/v1/completions", json={"prompt": prompt}).status_code == 400


def test_a_key_is_needed_where_one_is_set(codec):
    settings = Settings(api_key="long-enough")
    with serving(started(codec, lambda ids: [400]), settings) as url, httpx.Client(base_url=url) as client:
        for headers in ({}, {"Authorization": "Bearer long-enougx"}, {"Authorization": "Basic long-enough"},
                        {"Authorization": "Bearer \u00e9".encode()}):
            done = client.get("/v1/models", headers=headers)
            assert (done.status_code, done.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/v1/models", headers={"Authorization": "Bearer long-enough"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == 401


@pytest.fixture
def gate():
    gate = threading.Semaphore(0)
    yield gate
    gate.release(10_000)


def until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


LONG = {"prompt": [1, 2], "max_tokens": 200}


def test_a_full_queue_is_said_and_a_client_that_goes_away_frees_its_place(codec, gate):
    scheduler = started(codec, lambda ids: [400] * 200, limit=2, rows=1, gate=gate)
    with serving(scheduler, Settings()) as url, httpx.Client(base_url=url, timeout=20) as client:
        def leave(**more):  # in a row or in the queue, streaming or not
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/completions", json={**LONG, **more}, timeout=1.0)

        def post(**more):
            thread = threading.Thread(target=lambda: httpx.post(
                f"{url}/v1/completions", json={**LONG, **more}, timeout=20))
            thread.start()
            return thread

        running = post()
        until(lambda: scheduler.running == 1)
        leavers = [threading.Thread(target=leave, kwargs={"stream": stream}) for stream in (True, False)]
        for leaver in leavers:
            leaver.start()
        until(lambda: scheduler.waiting == 2)
        full = client.post("/v1/completions", json=LONG)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert full.json()["error"]["type"] == "rate_limit_error" and "retry-after" in full.headers
        many = client.post("/v1/completions", json={"prompt": ["a"] * 3})
        assert many.status_code == 400  # it could never be taken
        until(lambda: scheduler.waiting == 0)  # nobody has been answered yet
        for leaver in leavers:
            leaver.join()
        gate.release(10_000)
        running.join()
        assert "internlm_clients_gone_total 2.0" in client.get("/metrics").text


def test_a_client_that_leaves_in_the_middle_of_an_answer_frees_its_row(codec, gate):
    scheduler = started(codec, lambda ids: [400] * 200, rows=1, gate=gate)
    with serving(scheduler, Settings()) as url, httpx.Client(base_url=url, timeout=20) as client:
        with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
            next(answer.iter_lines())
        steps = 0
        while scheduler.running:
            gate.release()
            steps += 1
            assert steps < 150  # of 200 tokens
            time.sleep(0.1)


def test_a_server_that_ends_answers_what_runs(codec, gate):
    scheduler, answers = started(codec, lambda ids: [400] * 5, rows=1, gate=gate), []
    with serving(scheduler, Settings()) as url:
        client = threading.Thread(target=lambda: answers.append(httpx.post(
            f"{url}/v1/completions", json=LONG, timeout=20)))
        client.start()
        until(lambda: scheduler.running == 1)
        threading.Timer(0.5, gate.release, [10_000]).start()  # when the server is ending
    client.join()
    assert answers[0].json()["usage"]["completion_tokens"] == 5


def test_an_answer_takes_no_longer_than_the_limit(codec, gate):
    scheduler = started(codec, lambda ids: [400] * 200, rows=1, gate=gate)
    with (serving(scheduler, Settings(max_seconds=0.3)) as url,
          httpx.Client(base_url=url, timeout=20) as client):
        late = client.post("/v1/completions", json=LONG)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert events(client.post("/v1/completions", json={**LONG, "stream": True}))[-1]["error"]["code"] == (
            "timeout")
        gate.release(10_000)
        until(lambda: scheduler.running == scheduler.waiting == 0)


def test_a_model_that_fails_is_told_and_serves_on(codec):
    def answer(ids):
        if ids == [7]:
            raise ValueError("a fault")
        return [400]

    with serving(started(codec, answer), Settings()) as url, httpx.Client(base_url=url, timeout=20) as client:
        failed = client.post("/v1/completions", json={"prompt": [7]})
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "model_failed")
        assert client.post("/v1/completions", json={"prompt": [8]}).status_code == 200


def test_texts_are_in_the_log_only_where_asked_for(codec, caplog):
    caplog.set_level("INFO")
    for log_requests in (False, True):
        caplog.clear()
        with serving(started(codec, lambda ids: [400]), Settings(log_requests=log_requests)) as url:
            httpx.post(f"{url}/v1/completions", json={"prompt": "a private question"})
        assert ("a private question" in caplog.text) == log_requests
