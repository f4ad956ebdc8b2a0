"""Only what the contest needs: score, report and hand-in."""
