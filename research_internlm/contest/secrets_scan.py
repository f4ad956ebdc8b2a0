"""Finds credentials in files that are about to leave the machine. It names the place, never the value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_VALUE = rb"""["']?\s*[=:]\s*["']?(?P<value>[A-Za-z0-9/+_=-]{16,})"""
# What it is -> pattern. Assigned values count only when they mix letters and digits, so that code which
# names a key (`os.environ["SecretAccessKey"]`, `bos_token_id: 1`) passes.
_PATTERNS = {
    "an access key": re.compile(
        rb"(?i)(?<![a-z])(?:access_?key(?:_?id)?|ak)" + _VALUE),
    "a secret key": re.compile(rb"(?i)(?<![a-z])(?:secret(?:_?access)?_?key|sk|secret)" + _VALUE),
    "a token": re.compile(rb"(?i)(?:token|authorization)" + _VALUE),
    "a password": re.compile(
        rb"""(?i)(?:password|passwd|pwd)["']?\s*[=:]\s*["']?(?P<value>(?=[^\s"'(){}]*\d)[^\s"'(){}<>$]{6,})"""),
    "a cloud access key": re.compile(rb"(?<![A-Za-z0-9])(?:AKIA|ASIA|HST3|HPUA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    "a hosting token": re.compile(
        rb"(?<![A-Za-z0-9])(?:gh[opsu]_[A-Za-z0-9]{36}|github_pat_\w{50,}|hf_[A-Za-z0-9]{30,})"),
    "a private key": re.compile(rb"-----BEGIN (?:\w+ )*PRIVATE KEY-----"),
    "a password in a URL": re.compile(rb"[a-z][a-z0-9+]*://[^/\s:@\"'{}]+:[^/\s:@\"'{}]+@"),
    "a signed URL": re.compile(rb"(?i)[?&](?:x-(?:amz|obs)-)?signature=[^&\s\"'{]{8,}"),
}
_CREDENTIAL_VARIABLES = re.compile(r"(?i)(access_?key|secret|token|password|passwd)")


def scan(path: str | Path) -> Iterator[tuple[int, str]]:
    """Looks through one file, text or not.

    Also looks for the very values of this machine's credential variables, whatever they look like.

    Yields:
        Line number from 1, and what was found there.
    """
    content = Path(path).read_bytes()
    for what, pattern in _PATTERNS.items():
        for match in pattern.finditer(content):
            value = match.groupdict().get("value")
            if value is None or (re.search(rb"\d", value) and re.search(rb"[A-Za-z]", value)):
                yield content.count(b"\n", 0, match.start()) + 1, what
    for name, value in sorted(os.environ.items()):
        if len(value) >= 8 and _CREDENTIAL_VARIABLES.search(name):
            place = content.find(value.encode())
            if place >= 0:
                yield content.count(b"\n", 0, place) + 1, f"the value of the variable {name}"
