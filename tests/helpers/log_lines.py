"""Lines of training logs."""

from __future__ import annotations

# The contest's own line (2024, MindFormers 1.1), and one a CPU run of MindFormers 1.9.0 wrote.
LINE_2024 = ("2024-10-11 08:00:00,123 - mindformers[callback.py:314] - INFO - { Epoch:[  5/ 10], "
             "step:[ 1508/ 1725], loss: 1.215, per_step_time: 3772ms, lr: 2.7e-05, overflow cond: False, "
             "loss_scale: 32768.0")
