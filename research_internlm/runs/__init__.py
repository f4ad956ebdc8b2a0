"""A run folder: its facts, results, attempts, saved steps and logs."""
