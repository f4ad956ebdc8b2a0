"""Exam csv, questions, orderings and splits."""
