"""The contest's metric reads no file but its package's own."""

import marshal
import os
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT

PROGRAM = ("from research_internlm.evaluation.contest_metric import score_answer\n"
           "print([round(value, 6) for value in score_answer('the cat sat', 'the dog sat')])")


@pytest.mark.slow
def test_another_user_s_cache_in_the_temporary_folder_changes_nothing(tmp_path):
    scores = []
    for poisoned in (False, True):
        if poisoned:  # the form of jieba.cache: word frequencies and their sum
            words = {"c": 0, "ca": 10**6}  # cuts "cat" in two
            (tmp_path / "jieba.cache").write_bytes(marshal.dumps((words, 10**7)))
        done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True,
                              check=True, env=os.environ | {"TMPDIR": str(tmp_path)})
        scores.append(done.stdout)
    # By hand: segments the| |cat| |sat and the| |dog| |sat, the longest common run is "the" and a space.
    assert scores == ["[0.4, 0.0]\n"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
