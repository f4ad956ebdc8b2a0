"""Finds credentials in files that are about to leave the machine. It names the place, never the value.

A rule is a label (`--ak`, `Secret Access Key`, `password`), a separator as people and programs write them,
and a value that looks like a credential; or a pattern that needs no label (known prefixes, signed tokens, an
access key beside its secret). Labels are sought in lower case, and each rule only where a piece of its label
occurs, so that a long log costs seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Between a label and its value. "\xef\xbc\x9a" is the full-width colon in UTF-8, "\xa3\xba" in GBK.
_ASSIGNED = rb"""["'`]?\s*(?:=>|=|:|\xef\xbc\x9a|\xef\xbc\x9d|\xa3\xba)\s*["'`]?"""
_LISTED = rb"""["'`]?\s*,\s*["'`]?"""  # `"--ak", "K"` and `Access Key Id,K`
_FLAG = re.compile(rb"(?<![\w-])--?(?:[\w-]+[-_])?$")  # before a label that a blank follows
_ENV_WORDS = re.compile(r"(?i)(access_?key|secret|token(?!s|iz)|password|passwd)")  # not TOKENIZER_FILE
_LEAST_VARIABLE = 8  # characters; shorter values occur by chance
_BLOCK_BYTES = 1 << 16

_KEY_VALUE = re.compile(rb"[A-Za-z0-9/+_=-]{16,}")
_QUOTED_OR_LAST = rb"""(?=["'`;&]|,?\s*$|\s)"""
_WORD = re.compile(rb"""[^\s"'`(){}\[\]<>$,;&]{6,}""" + _QUOTED_OR_LAST)
_WORDS_OF_CODE = re.compile(
    rb"(?i)(?:none|null|true|false|str|string|required|optional|\*+|x+|\.+|password|passwd|\d+[a-z]{0,3}|"
    rb"[bu]?(?:int|float)\d*|(?:self|args?|arguments|os|config|re)\..*|/.*)")


def _mixed(value: bytes) -> bool:
    """Letters and digits, as keys have; code that only names a key has no digits."""
    return re.search(rb"\d", value) is not None and re.search(rb"[A-Za-z]", value) is not None


def _key(line: bytes, start: int) -> bool:
    match = _KEY_VALUE.match(line, start)
    return match is not None and _mixed(match.group())


def _secret_word(line: bytes, start: int, least_letters: int) -> bool:
    """A word that stands alone: letters and digits, or at least so many letters where no prose follows."""
    match = _WORD.match(line, start)
    if match is None or _WORDS_OF_CODE.fullmatch(match.group()):
        return False
    if _mixed(match.group()):
        return True
    quoted = line[start - 1:start] in (b'"', b"'", b"`") and line[match.end():match.end() + 1] in (
        b'"', b"'", b"`")
    rest = line[match.end():].strip(b" \t\r\n,;}")
    alone = quoted or line[start - 1:start] in (b"=", b":") or not rest or rest.startswith(b"-")
    return alone and re.fullmatch(rb"[A-Za-z]{%d,}" % least_letters, match.group()) is not None


@dataclass(frozen=True)
class _Rule:
    """A label and what must follow it.

    Attributes:
        what: Name of the finding.
        hints: Lower-case pieces, one of which a line must hold to be looked at closely.
        label: Pattern of label and separator, on the line in lower case.
        is_secret: Whether the bytes from a position on, in the line as it is, are a credential.
    """

    what: str
    hints: tuple[bytes, ...]
    label: re.Pattern[bytes]
    is_secret: Callable[[bytes, int], bool]


@dataclass(frozen=True)
class _Pattern:
    """A pattern that needs no label: name of the finding, lower-case hints of it, its expression."""

    what: str
    hints: tuple[bytes, ...]
    regex: re.Pattern[bytes]


def _labels(names: bytes, listed: bytes = _LISTED) -> re.Pattern[bytes]:
    """`NAME = value` and the like; `NAME, value` as `listed` has it; NAME and a blank, which a flag needs."""
    return re.compile(rb"(?:" + names + rb")(?:" + _ASSIGNED + rb"|" + listed + rb"|(?P<blank>\s+[\"'`]?))")


_QUOTED_LIST = rb"""["']\s*,\s*["']"""
# What stands before `token` when the token is a piece of text and no credential.
_TEXT_TOKENS = b"".join(rb"(?<!%s[-_ ]token)" % name for name in (
    b"bos eos pad unk sep cls mask end stop start special image max min new next last first per a the one of "
    b"marker label each every").split())

_RULES = (
    _Rule("an access key", (b"access", b"ak"), _labels(
        rb"access(?<!secretaccess)(?<!secret[-_ ]access)[-_ ]?key(?:[-_ ]?id)?|ak(?<![a-z]ak)"), _key),
    _Rule("a secret key", (b"secret", b"sk"), _labels(
        rb"secret(?:[-_ ]?access)?[-_ ]?key|sk(?<![a-z]sk)|secret"), _key),
    _Rule("an API key", (b"api",), _labels(rb"api[-_ ]?key"), _key),
    _Rule("a token", (b"token",), _labels(
        rb"token" + _TEXT_TOKENS, _QUOTED_LIST), lambda line, start: _secret_word(line, start, 10)),
    _Rule("an authorization", (b"authorization", b"bearer"), re.compile(
        rb"authorization" + _ASSIGNED + rb"(?:[a-z][\w-]*[\s,:]+)?(?:\w+=)?|bearer\s+"), _key),
    _Rule("a password", (b"pass", b"pwd", "密码".encode()), _labels(
        rb"passw(?:or)?d|passphrase|pwd(?<![a-z]pwd)|pass(?<![a-z]pass)|" + "密码".encode(), _QUOTED_LIST),
        lambda line, start: _secret_word(line, start, 6)),
    _Rule("a key of obsutil", (b"obsutil",), re.compile(rb"\s-[ik](?:=|\s+)[\"']?"), _key),
)
_PATTERNS = (
    _Pattern("a cloud access key", (b"akia", b"asia", b"hst3", b"hpua"), re.compile(
        rb"(?<![A-Za-z0-9])(?:AKIA|ASIA|HST3|HPUA)[A-Z0-9]{16}(?![A-Za-z0-9])")),
    _Pattern("a hosting token", (b"gh", b"hf_", b"glpat-", b"github_pat_", b"npm_", b"xox"), re.compile(
        rb"(?<![A-Za-z0-9])(?:gh[oprsu]_[A-Za-z0-9]{36}|github_pat_\w{50,}|hf_[A-Za-z0-9]{30,}"
        rb"|glpat-[\w-]{16,}|npm_[A-Za-z0-9]{36}|xox[abeoprs]-[\w-]{10,})")),
    _Pattern("an API key", (b"sk-", b"aiza"), re.compile(
        rb"(?<![A-Za-z0-9_-])(?:sk-(?=[\w-]*\d)(?=[\w-]*[A-Za-z])(?:[a-z]+\d*-)?[A-Za-z0-9_]{16}[\w-]*"
        rb"|AIza[\w-]{35})")),
    _Pattern("a signed token", (b"eyj",), re.compile(
        rb"(?<![A-Za-z0-9])eyJ[\w-]{8,}(?:\.[\w-]{8,}){1,2}|(?i:bearer\s+eyJ)")),
    _Pattern("a private key", (b"private key-----",), re.compile(rb"-----BEGIN (?:\w+ )*PRIVATE KEY-----")),
    _Pattern("a password in a URL", (b"://",), re.compile(
        rb"[A-Za-z0-9+]+://[^/\s:@\"'{}]+:[^/\s:@\"'{}]+@")),
    _Pattern("a signed URL", (b"signature=",), re.compile(
        rb"(?i)[?&](?:x-(?:amz|obs)-)?signature=[^&\s\"'{]{8,}")),
)
_ACCESS_WORD = re.compile(rb"(?<![A-Za-z0-9/+_-])(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z0-9]{20}(?![A-Za-z0-9/+_-])")
_SECRET_WORD = re.compile(rb"(?<![A-Za-z0-9/+_-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+_-])")
_UPPER = bytes(65 if 48 <= code <= 57 or 65 <= code <= 90 else 32 for code in range(256))


def _holds_secret_word(line: bytes) -> bool:
    return any(_mixed(word) and re.search(rb"[A-Z]", word) and re.search(rb"[a-z]", word)
               for word in _SECRET_WORD.findall(line))


def _worth_a_look(kinds: Sequence[Any], low: bytes) -> list[Any]:
    """The rules or patterns of which `low` holds a hint."""
    found = []
    for kind in kinds:
        for hint in kind.hints:
            if hint in low:
                found.append(kind)
                break
    return found


def _found_in(line: bytes, low: bytes, rules: Sequence[_Rule], patterns: Sequence[_Pattern]
              ) -> Iterator[str]:
    for rule in _worth_a_look(rules, low):
        for match in rule.label.finditer(low):
            if match.groupdict().get("blank") and not _FLAG.search(low, 0, match.start()):
                continue
            if rule.is_secret(line, match.end()):
                yield rule.what
    for pattern in _worth_a_look(patterns, low):
        if pattern.regex.search(line):
            yield pattern.what


def _credential_variables() -> dict[str, bytes]:
    return {name: value.encode() for name, value in sorted(os.environ.items())
            if len(value) >= _LEAST_VARIABLE and _ENV_WORDS.search(name) and not os.path.exists(value)}


class _Block:
    """A run of lines with what can occur in it at all, so that most lines are asked few questions."""

    def __init__(self, lines: list[bytes], variables: Mapping[str, bytes]) -> None:
        content = b"".join(lines)
        low = content.lower()
        self.lines = list(zip(lines, low.split(b"\n"), strict=False))
        self.rules, self.patterns = _worth_a_look(_RULES, low), _worth_a_look(_PATTERNS, low)
        self.hints = [hint for kind in (*self.rules, *self.patterns) for hint in kind.hints if hint in low]
        self.variables = {name: value for name, value in variables.items() if value in content}
        # A translated text is searched at the speed of memory, the pattern at a hundredth of it.
        self.access_words = b"A" * 20 in content.translate(_UPPER)

    def labelled(self, line: bytes, low: bytes) -> Iterator[str]:
        """What rules, patterns and variables find in one of its lines."""
        for hint in self.hints:
            if hint in low:
                yield from _found_in(line, low, self.rules, self.patterns)
                break
        for name, value in self.variables.items():
            if value in line:
                yield f"the value of the variable {name}"


def scan(path: str | Path) -> Iterator[tuple[int, str]]:
    """Looks through one file, text or not, line by line.

    Also looks for the very values of this machine's credential variables, whatever they look like.

    Yields:
        Line number from 1, and what was found there; each kind once a line.
    """
    variables = _credential_variables()
    number, before, access_before = 0, b"", False
    with open(path, "rb") as file:
        while lines := file.readlines(_BLOCK_BYTES):
            block = _Block(lines, variables)
            for line, low in block.lines:
                number += 1
                found = dict.fromkeys(block.labelled(line, low))
                access = block.access_words and _ACCESS_WORD.search(line) is not None
                if not found and ((access and (_holds_secret_word(line) or _holds_secret_word(before)))
                                  or (access_before and _holds_secret_word(line))):
                    found["an access key beside its secret"] = None
                before, access_before = line, access
                yield from ((number, what) for what in found)
