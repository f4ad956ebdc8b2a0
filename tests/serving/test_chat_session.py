"""A conversation: prompts, history, the context's limit, and what a terminal or a pipe sees."""

import contextlib
import io
import json
import sys

import pytest

from research_internlm.data.chat_template import render_messages
from research_internlm.inference.sampling import Sampling
from research_internlm.serving import console
from research_internlm.serving.chat_session import ChatSession
from research_internlm.serving.console import Console
from research_internlm.shared.errors import ToolkitError


class Parrot:
    """Answers every prompt with one text, and keeps the prompts."""

    def __init__(self, codec, text="Paris."):
        self.ids, self.prompts, self.interrupt_after = codec.processor.encode(text), [], None

    def stream(self, ids, sampling):
        self.prompts.append(list(ids))
        for number, token in enumerate(self.ids):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            yield token


def session_of(codec, model, seq_length=200, new=20, system=""):
    return ChatSession(model, codec, seq_length, Sampling(new), system)


def test_the_prompt_is_that_of_training(codec):
    model = Parrot(codec)
    session = session_of(codec, model, system="Be brief.")
    assert "".join(session.ask("Where?")) == "Paris."
    assert "".join(session.ask("Sure?")) == "Paris."
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"},
                {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Sure?"}]
    assert model.prompts[1] == session.prompt == codec.encode(render_messages(messages))
    assert session.transcript() == [*messages, {"role": "assistant", "content": "Paris."}]
    assert session.stats.prompt_tokens == len(session.prompt)
    assert session.stats.new_tokens == len(model.ids)


def test_a_full_context_loses_the_oldest_exchanges_and_keeps_the_system_text(codec):
    model = Parrot(codec)
    session = session_of(codec, model, seq_length=100, system="Be brief.")
    for number in range(8):
        list(session.ask(f"Question {number}"))
        assert len(session.prompt) <= 100 - 20
    assert 0 < session.forgotten < 8
    assert session.messages[0]["content"] == f"Question {session.forgotten}"
    assert session.transcript()[0] == {"role": "system", "content": "Be brief."}
    session.reset()
    assert session.transcript() == [{"role": "system", "content": "Be brief."}]


def test_a_message_that_does_not_fit_is_refused_and_forgotten(codec):
    session = session_of(codec, Parrot(codec), seq_length=60)
    list(session.ask("short"))
    with pytest.raises(ToolkitError, match=r"the message takes \d+ tokens, and the context has \d+"):
        list(session.ask("long " * 100))
    assert [message["content"] for message in session.messages] == ["short", "Paris."]


def test_an_answer_that_is_stopped_stays_in_part(codec):
    session = session_of(codec, Parrot(codec, "Paris. Rome. Bern."))
    answer = session.ask("Where?")
    first = next(answer)
    answer.close()
    assert session.messages[-1] == {"role": "assistant", "content": first}
    unread = session.ask("Where?")
    unread.close()
    assert len(session.messages) == 2  # a question without an answer is no exchange


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def talk(monkeypatch, capsys, codec):
    """Types lines into a console; returns standard output and standard error."""
    def talk(lines, model, **options):
        typed = iter(lines)

        def read(_prompt):
            line = next(typed, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr(console, "_line_history", contextlib.nullcontext)
        found = session_of(codec, model)
        Console(found, **options).run()
        return (found, *capsys.readouterr())
    return talk


def test_commands_and_upstreams_words(talk, codec, tmp_path):
    model = Parrot(codec)
    saved = tmp_path / "chat.json"
    session, out, err = talk(["Where?", f"/save {saved}", f"/save {saved}", "/system Be kind.", "Who?",
                              "RESET", "/nonsense", '"""first', 'second"""', "EXIT", "never asked"], model)
    assert out == "Paris.\n" * 3
    assert json.loads(saved.read_text()) == {"messages": [{"role": "user", "content": "Where?"},
                                                          {"role": "assistant", "content": "Paris."}]}
    assert f"error: {saved} is there already" in err  # the second /save
    assert "/nonsense is not a command" in err
    assert session.transcript()[:2] == [{"role": "system", "content": "Be kind."},
                                        {"role": "user", "content": "first\nsecond"}]
    assert len(model.prompts) == 3


def test_ctrl_c_ends_the_answer_and_not_the_program(talk, codec):
    model = Parrot(codec, "Paris. Rome. Bern.")
    model.interrupt_after = 2
    _, _, err = talk(["Where?", "Where again?"], model, show_stats=True)
    assert len(model.prompts) == 2
    assert err.count("(stopped)") == 2 and err.count("2 out; first token after") == 2


def test_that_the_context_is_full_is_said_once(talk, codec):
    _, _, err = talk([f"Question {number} {'about something ' * 4}" for number in range(9)], Parrot(codec))
    assert err.count("the context is full") == 1


def test_a_pipe_sees_the_answer_alone(monkeypatch, capsys, codec):
    model = Parrot(codec)
    session = session_of(codec, model)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\nIn which country?\n"))
    Console(session, show_prompt=True).run()
    out, err = capsys.readouterr()
    assert out == "Paris.\n"
    assert err == "prompt: " + " ".join(map(str, session.prompt)) + "\n"
    assert session.messages[0]["content"] == "Where?\nIn which country?"
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    with pytest.raises(ToolkitError, match="standard input holds no message"):
        Console(session).run()
