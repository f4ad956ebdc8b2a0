"""Only what the contest needs: score, report and submission."""
