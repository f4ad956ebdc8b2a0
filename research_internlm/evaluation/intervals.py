"""Confidence intervals of 95 %."""

from __future__ import annotations

import math
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson, 1927).

    Chosen over the normal approximation, which is [1, 1] for 20 of 20 right.

    Args:
        correct: Successes, 0 to `total`.
        total: Trials, at least 1.

    Returns:
        Lower and upper bound, fractions within 0 to 1.
    """
    share, spread = correct / total, Z_95 ** 2 / total
    middle = share + spread / 2
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
