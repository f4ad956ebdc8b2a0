"""Malformed command lines: values that no option expects, words that are missing, doubled or out of place."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Sequence
from pathlib import Path

# Nothing absolute but devices made in the folder: an attack must not write elsewhere. Bytes that are not
# UTF-8 come as half surrogates from \udc80 to \udcff.
VALUES = (
    "", " ", "nan", "inf", "-inf", "-1", "0", "1.5", "1e999", "9" * 400, "9" * 5000, "0x10", "True", "\0",
    "a\0b", "a\nb", "\r", "\udcff", "x\udc80.json", "\x1b[2J", "\u2028", "a" * 300, "a/" * 3000,
    ".", "..", "./", "folder", "pipe", "zero", "full", "loop", "absent", "absent/x.json", "out.json/x", "=",
    "x=", "=1", "model.=1", "model.model_config.seq_length=", "model.model_config.seq_length=-1",
    "model.model_config.seq_length=9" + "9" * 30, "callbacks=[", "callbacks.X.y=1", "context=5",
    "runner_config.batch_size=1.5", "model.model_config={}", "seed=" + "9" * 5000, "--", "---", "-", "-x",
    "--overwrite", "--limit=0", "obs://", "obs:///x", "obs://b", "obs://a b/c", "http://[::1", "%s{}", "[",
    "]*?", "**", "~", "~nobody", "$HOME", "\u0661", "items.json", "tokenizer.model", "tiny.yaml")


def make_places(folder: Path) -> None:
    """Paths that are no regular files, by the names that VALUES has."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    for name, minor in (("zero", 5), ("full", 7)):
        try:
            os.mknod(folder / name, 0o600 | stat.S_IFCHR, os.makedev(1, minor))
        except PermissionError:  # only root may
            (folder / name).symlink_to(f"/dev/{name}")


def malform(argv: Sequence[str], rng: random.Random) -> list[str]:
    """Another command line, one or two words of it changed."""
    words = list(argv)
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(words) + 1)
        action = rng.choice(("replace", "replace", "replace", "insert", "remove", "double", "swap"))
        if action == "insert" or place == len(words):
            words.insert(place, rng.choice(VALUES))
        elif action == "replace":  # a value, more often than an option's name
            values = [n for n, word in enumerate(words) if not word.startswith("--")] or [place]
            words[rng.choice(values) if rng.random() < 0.8 else place] = rng.choice(VALUES)
        elif action == "remove":
            del words[place]
        elif action == "double":
            words.insert(place, words[place])
        else:
            rng.shuffle(words)
    return words
