"""What the mirror says at its end."""

import shlex
import subprocess
from types import SimpleNamespace

from research_internlm.mirroring import watch
from research_internlm.mirroring.push import Candidate


def test_the_advised_command_is_the_mirror_s_own(tmp_path, capsys):
    pusher = SimpleNamespace(safe_step=0, unsafe=lambda: [(Candidate("run.json", (2, 0)), "not sent")])
    arguments = SimpleNamespace(url="obs://bucket/run", folder=tmp_path, server=None)
    assert watch.report(pusher, arguments, []) == watch.UNSAFE_EXIT_CODE
    advice = capsys.readouterr().out.partition("send them with: ")[2]
    words = shlex.split(advice.partition(" < ")[0])
    assert words[2:] == ["push", str(tmp_path), "obs://bucket/run"]
    done = subprocess.run([*words[:3], "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--finish_within" in done.stdout
