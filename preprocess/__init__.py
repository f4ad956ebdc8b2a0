"""Exam csv to instruction JSON to MindRecord."""
