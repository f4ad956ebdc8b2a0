"""Around the run: plan, score, logs, report, hand-in, upload."""
