"""The set-up: which Python, which MindSpore and MindFormers, the environment, wheels to carry elsewhere.

Runs before anything is installed, so it imports only the standard library and the modules of shared/ that do
the same, and works in Python 3.8 where it can say what is needed.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the project
