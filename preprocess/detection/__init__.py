"""Texts by humans and by AI: csv files, cleaning, near-duplicates, splits."""
