"""Metrics and answer extraction: no MindSpore, so scoring runs anywhere in a second."""
