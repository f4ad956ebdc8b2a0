"""Malformed versions of a valid file: as bytes, as text, and by its structure where it is JSON or yaml."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path

import yaml

JUNK = (None, True, 0, -1, 10**30, 1.5, float("nan"), "", "x", "\ud800", "\x1b[2J", "../../x", "/etc/passwd",
        "a" * 300, [], [1], {}, {"a": 1}, [[]], "2024-13-45", "5e-5")
CHUNKS = (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"}", b"[" * 5000, b'"', b"\n", b",",
          b"\xe2\x80\xa8", b"9" * 5000, b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04",
          b"!!python/name:os.system", b"&a [*a]", b"\x1b]0;x\x07", b'"\\ud800"', b"\r\n", b"nan")


def mutate(path: Path, rng: random.Random) -> str:
    """Changes one file, which may be a link to others' content; returns what was done, for the report."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    kinds = [_as_bytes, _as_bytes, _as_kind]
    if path.suffix in (".json", ".yaml", ".jsonl"):
        kinds += [_by_structure] * 4
    if path.suffix in (".csv", ".log", ".txt"):
        kinds += [_as_lines] * 2
    kind = rng.choice(kinds)
    return f"{path.name}: {kind(path, rng)}"


def _as_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) + 1)
    action = rng.choice(("cut", "flip", "insert", "remove", "repeat", "header"))
    if action == "cut":
        del data[place:]
    elif action == "flip" and data:
        for _ in range(rng.choice((1, 1, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif action == "insert":
        data[place:place] = rng.choice(CHUNKS)
    elif action == "remove":
        del data[place:place + rng.choice((1, 8, 100))]
    elif action == "repeat":
        data[place:place] = data[place:place + 200]
    else:  # where lengths and offsets of binary forms are
        for index in range(min(len(data), rng.choice((1, 4, 8, 16)))):
            data[index] = rng.randrange(256)
    path.write_bytes(bytes(data))
    return f"{action} at {place}"


def _as_kind(path: Path, rng: random.Random) -> str:
    kind = rng.choice(("absent", "folder", "empty", "link to nothing", "another file", "random bytes", "pipe",
                       "link to itself", "endless device"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "link to nothing":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "pipe":  # nobody writes: opening it would wait forever
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    elif kind == "another file":
        path.write_bytes(rng.choice((b"{}", b"[]", b"null", b"1", b'"x"', b"a,b\n1,2\n", b"\x08\x01" * 50)))
    elif kind == "random bytes":
        path.write_bytes(rng.randbytes(rng.choice((1, 9, 500))))
    return kind


def _as_lines(path: Path, rng: random.Random) -> str:
    lines = path.read_bytes().splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    action = rng.choice(("drop", "double", "swap", "junk", "cell"))
    if action == "drop":
        del lines[place]
    elif action == "double":
        lines.insert(place, lines[place])
    elif action == "swap":
        rng.shuffle(lines)
    elif action == "junk":
        lines[place] = rng.choice(CHUNKS) + lines[place]
    else:
        cells = lines[place].split(b",")
        cells[rng.randrange(len(cells))] = rng.choice(CHUNKS)
        lines[place] = b",".join(cells)
    path.write_bytes(b"".join(lines))
    return f"{action} line {place + 1}"


def _by_structure(path: Path, rng: random.Random) -> str:
    text = path.read_text("utf-8")
    try:
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except ValueError:  # JSON Lines
        return _as_lines(path, rng)
    value, done = _changed(value, rng)
    if path.suffix == ".yaml":
        path.write_bytes(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"))
    else:
        path.write_bytes(json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    return done


def _changed(value, rng):
    """A copy of a value with one node replaced, removed, renamed or doubled."""
    value = copy.deepcopy(value)
    nodes = []

    def collect(node, path):
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            nodes.append((node, key, [*path, key]))
            collect(child, [*path, key])

    collect(value, [])
    if not nodes:
        return rng.choice(JUNK), "replaced whole"
    node, key, path = rng.choice(nodes)
    action = rng.choice(("replace", "replace", "remove", "rename"))
    if action == "replace":
        node[key] = rng.choice(JUNK)
    elif action == "remove":
        del node[key]
    elif isinstance(node, dict):
        node["x" + str(key)] = node.pop(key)
    else:
        node.append(node[key])
    return value, f"{action} {'.'.join(map(str, path))}"
