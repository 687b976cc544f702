"""From scores to tail probabilities, by counting.

Law: a score becomes a tail probability by comparison with the scores seen before it, so that one
threshold means the same false-alarm rate for every detector.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_f8, A_i8, f8, i8, kernel, none

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 512
_BINS_PER_OCTAVE = 8.0
_LOWEST_OCTAVE = -16.0


@kernel(i8(f8))
def _bin(score: Any) -> Any:
    """Return the histogram bin of a score."""
    if score <= 0.0:
        return 0
    octave = math.log2(score) - _LOWEST_OCTAVE
    return int(max(0.0, min(float(BINS - 1), octave * _BINS_PER_OCTAVE)))


@kernel(none(A_f8, A_i8, A_f8, A_f8), allocates=True)
def tail_many(scores: Any, group_end: Any, bins: Any, tails: Any) -> None:
    """Give each score the share of earlier ones at least as high, group by group."""
    above = np.zeros(BINS + 1)
    begin = 0
    for g in range(group_end.size):
        end = group_end[g]
        for b in range(BINS - 1, -1, -1):
            above[b] = above[b + 1] + bins[b]
        for i in range(begin, end):
            if math.isfinite(scores[i]):
                tails[i] = (above[_bin(scores[i])] + 1.0) / (above[0] + 1.0)
            else:
                tails[i] = np.nan
        for i in range(begin, end):
            if math.isfinite(scores[i]):
                bins[_bin(scores[i])] += 1.0
        begin = end


class TailCalibration:
    """How probable a score this high was so far: a histogram of scores on a logarithmic scale."""

    def __init__(self) -> None:
        self.bins = np.zeros(BINS)

    def tail_many(
        self, scores: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the tail probability of each score, then count it.

        Args:
            scores: `(m,) float64`; NaN means not scored and is passed through.
            group_end: `(g,) int64`; where each group ends; a group is judged by those before it.

        Returns:
            `(m,) float64` in 0 … 1: the share of earlier scores at least as high, to the width of
            a bin (9 %), this one counted among them.
        """
        tails = np.empty(scores.size)
        tail_many(scores, group_end, self.bins, tails)
        return tails
