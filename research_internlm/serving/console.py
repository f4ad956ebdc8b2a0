"""The chat in a terminal or a pipe: reading messages, slash commands, printing answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from research_internlm.serving.chat_session import ChatSession
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_absent, write_json

_PROMPT, _MORE = ">>> ", "... "
_FENCE = '"""'
_HISTORY_LINES = 1000
HELP = """/reset         forget the conversation (or RESET)
/system TEXT   set the system text and forget the conversation; without TEXT there is none
/save FILE     write the conversation as JSON, {"messages": [...]}
/help          this list
/exit          leave (or EXIT, or Ctrl-D)
Several lines: begin and end them with \"\"\". Ctrl-C ends an answer."""
_UPSTREAM = {"RESET": "/reset", "EXIT": "/exit"}  # XTuner's chat knows these two


@dataclass
class Console:
    """A conversation with a person, or with a pipe.

    Attributes:
        session: The conversation.
        show_stats: Print tokens and speed after each answer.
        show_prompt: Print the token ids of each prompt before its answer.
    """

    session: ChatSession
    show_stats: bool = False
    show_prompt: bool = False

    def run(self) -> None:
        """Talks until the person leaves; from a pipe, answers all that comes as one message.

        Standard output gets the answers alone; everything else goes to standard error.

        Raises:
            ToolkitError: From a pipe only: there is no message, or it is too long.
        """
        if not sys.stdin.isatty():
            self._answer_pipe()
            return
        _note("/help lists the commands, /exit leaves")
        with _line_history():
            for text in _messages():
                try:
                    if self._obey(text):
                        return
                except (ToolkitError, OSError) as error:
                    _note(f"error: {error}")

    def _answer_pipe(self) -> None:
        text = sys.stdin.read().strip()
        if not text:
            raise ToolkitError("standard input holds no message: echo MESSAGE | internlm chat ...")
        self._answer(text)

    def _obey(self, text: str) -> bool:
        """Does what a line says, a command or a question; returns whether to leave."""
        word, _, rest = _UPSTREAM.get(text, text).partition(" ")
        if word == "/exit":
            return True
        commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset, "/system": self._set_system, "/save": self._save,
            "/help": lambda _: _note(HELP)}
        if word in commands:
            commands[word](rest.strip())
        elif word.startswith("/"):
            _note(f"{word} is not a command; to ask a question that begins with /, put it between "
                  f"{_FENCE}\n{HELP}")
        else:
            self._answer(text.removeprefix(_FENCE))
        return False

    def _reset(self, _: str) -> None:
        self.session.reset()
        _note("the conversation is forgotten")

    def _set_system(self, text: str) -> None:
        self.session.system = text
        self._reset(text)

    def _save(self, name: str) -> None:
        if not name:
            raise ToolkitError("/save needs the name of a file")
        if Path(name).exists():
            raise ToolkitError(f"{name} is there already: give another name")
        write_json(require_absent(name, overwrite=False), {"messages": self.session.transcript()})
        _note(f"{len(self.session.transcript())} messages -> {Path(name)}")

    def _answer(self, text: str) -> None:
        forgotten = self.session.forgotten
        pieces = self.session.ask(text)
        try:
            first = next(pieces, "")
            self._before(forgotten)
            sys.stdout.write(first)
            sys.stdout.flush()
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pieces.close()
            _note(" (stopped)")
        sys.stdout.write("\n")
        sys.stdout.flush()
        if self.show_stats:
            _note(self.session.stats.line())

    def _before(self, forgotten: int) -> None:
        if not forgotten and self.session.forgotten:  # said once
            _note("the context is full: from now on the oldest exchanges are left out (/reset starts anew)")
        if self.show_prompt:
            _note("prompt: " + " ".join(map(str, self.session.prompt)))


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _messages() -> Iterator[str]:
    """What the person types; a message that was fenced keeps its opening fence, so it is no command."""
    while True:
        try:
            line = input(_PROMPT)
            if line.startswith(_FENCE):
                line = _FENCE + _rest_of_block(line.removeprefix(_FENCE))
        except KeyboardInterrupt:
            _note("\n/exit or Ctrl-D leaves")
            continue
        except EOFError:
            _note("")
            return
        except UnicodeDecodeError:
            _note("error: the line is not UTF-8; type it again")
            continue
        if line.removeprefix(_FENCE).strip():
            yield line if line.startswith(_FENCE) else line.strip()


def _rest_of_block(line: str) -> str:
    lines = [line]
    while _FENCE not in lines[-1]:
        lines.append(input(_MORE))
    lines[-1] = lines[-1].partition(_FENCE)[0]
    return "\n".join(lines).strip("\n")


@contextlib.contextmanager
def _line_history() -> Iterator[None]:
    """Arrow keys, and earlier sessions' lines, where Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = Path("~/.internlm_chat_history").expanduser()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY_LINES)
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
            path.chmod(0o600)  # questions are private
