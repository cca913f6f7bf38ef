"""Paired comparison of two methods: the same images, with and without."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

EXACT_UP_TO = 16
"""Pairs up to which all sign patterns are counted."""
DRAWS = 100_000
"""Sign patterns drawn for more pairs."""


def paired_test(differences: ArrayLike) -> dict[str, Any]:
    """Two-sided tests that paired differences are as likely to be negative as positive.

    The sign-flip (paired permutation) test of the mean: the share of the 2**n patterns of signs whose mean is
    as far from zero as the one found. Beside it Wilcoxon's signed-rank test as `scipy.stats.wilcoxon` has it
    (zeros left out; exact for few pairs without ties).

    Args:
        differences: One a pair.

    Returns:
        `n`, `mean`, `p` of the permutation test, `exact` (whether all patterns were counted; else `DRAWS`
        random ones, always the same), `p_wilcoxon` (None where all differences are zero).
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    result: dict[str, Any] = {"n": n, "mean": float(values.mean()) if n else None}
    if not n:
        return result | {"p": None, "exact": True, "p_wilcoxon": None}
    exact = n <= EXACT_UP_TO
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = 1.0 - 2.0 * np.random.default_rng(0).integers(0, 2, (DRAWS, n))
        signs[0] = 1.0  # the pattern that was found is one of them
    means = np.abs(signs @ values)
    p = float(np.mean(means >= abs(values.sum()) * (1 - 1e-12) - 1e-15))
    return result | {"p": p, "exact": exact, "p_wilcoxon": _wilcoxon(values)}


def _wilcoxon(values: np.ndarray) -> float | None:
    from scipy.stats import wilcoxon

    kept = values[values != 0]
    if not len(kept):
        return None
    ties = len(np.unique(np.abs(kept))) < len(kept)
    return float(wilcoxon(kept, method="approx" if ties or len(kept) > 50 else "exact").pvalue)
