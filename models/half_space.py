"""Half-Space Trees over whole arrays: River's own numbers, a hundred times as fast.

Laws:

1. With the same seed, windows and rows, scores are bit by bit those of River's
   `MinMaxScaler() | HalfSpaceTrees()`: the trees are made by River, and every sum is of whole
   numbers.
2. As there, the features of the first row learnt are those that trees split; a value that is
   unknown follows the child that more rows of the open window went to.
3. NaN and infinities are unknown.

Source: S. C. Tan, K. M. Ting and T. F. Liu, "Fast anomaly detection for streaming data" (IJCAI
2011); River 0.26, `river.anomaly.HalfSpaceTrees`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
from river.base import AnomalyDetector
from river.tree.padded import PaddedBranch, make_padded_tree

from models.gaussian import GaussianDetector
from models.half_space_kernels import PIVOTS, learn, scale, score

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

PADDING = 0.15
"""Share of a range, at each end, that no split falls into: River's."""


_plant: Any = make_padded_tree  # River gives it no types


class HalfSpaceTrees(AnomalyDetector):
    """Half-Space Trees behind a scaling of each feature to the range met so far.

    Args:
        names: Names of the features, in the order of the columns of rows.
        n_trees: Trees.
        height: Splits on the way from root to leaf; a tree has `2 ** (height + 1) - 1` nodes.
        window_size: Rows after which the counts become the reference.
        seed: Seed of the splits.
        warm_rows: Rows learnt before anything is scored.

    Example:
        >>> detector = HalfSpaceTrees(("x",), n_trees=5, height=3, window_size=3, seed=42)
        >>> for x in (0.0, 1.0, 0.5, 0.45, 0.43, 0.44):
        ...     detector.learn_one({"x": x})
        >>> detector.score_one({"x": 0.445}) < detector.score_one({"x": 0.0})
        True
    """

    def __init__(
        self,
        names: Sequence[str],
        n_trees: int = 10,
        height: int = 8,
        window_size: int = 250,
        seed: int = 1,
        warm_rows: int = 0,
    ) -> None:
        self.names = tuple(names)
        self.n_trees, self.height, self.window_size = n_trees, height, window_size
        self.seed, self.warm_rows = seed, warm_rows
        self.profile = GaussianDetector(names, warm_rows)
        self.limits = np.full((2, len(self.names)), np.nan)
        self.state = np.zeros(2, np.int64)
        nodes = 2 ** (height + 1) - 1
        self.mass = np.zeros((n_trees, nodes), np.int64)
        self.reference = np.zeros((n_trees, nodes), np.int64)
        self.feature = np.zeros((n_trees, nodes), np.int64)
        self.threshold = np.zeros((n_trees, nodes))
        self.planted = False

    @property
    def learnt(self) -> int:
        """Rows learnt so far."""
        return self.profile.rows

    def _row(self, x: dict[Hashable, Any]) -> NDArray[np.float64]:
        return np.array([[float(x.get(name, np.nan)) for name in self.names]])

    def learn_one(self, x: dict[Hashable, Any]) -> None:
        """Learn one row, given as feature name → value; absent means unknown."""
        self.learn_many(self._row(x))

    def score_one(self, x: dict[Hashable, Any]) -> float:
        """Return the score of one row, 0 … 1; NaN while warming."""
        return float(self.score_many(self._row(x))[0])

    def learn_many(self, rows: NDArray[np.float64]) -> None:
        """Learn rows, `(m, d) float64`."""
        rows = np.ascontiguousarray(rows)
        self._learn(rows, 0, len(rows), np.empty(rows.shape))
        self.profile.learn_many(rows)

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores of rows, `(m,) float64`, without learning them."""
        rows, scores = np.ascontiguousarray(rows), np.full(len(rows), np.nan)
        if self.learnt >= self.warm_rows:
            self._score(rows, 0, len(rows), np.empty(rows.shape), scores)
        return scores

    def score_learn_many(
        self, rows: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `models.anomaly.Detector`; evidence is a Gaussian profile's, beside the trees."""
        rows = np.ascontiguousarray(rows)
        scores, scaled = np.full(len(rows), np.nan), np.empty(rows.shape)
        begin = 0
        for end in group_end.tolist():
            if self.learnt + begin >= self.warm_rows:
                self._score(rows, begin, end, scaled, scores)
            self._learn(rows, begin, end, scaled)
            begin = end
        _, distances = self.profile.score_learn_many(rows, group_end)
        return scores, distances

    def _score(
        self, rows: NDArray[np.float64], begin: int, end: int, scaled: NDArray[np.float64],
        scores: NDArray[np.float64],
    ) -> None:  # fmt: skip
        if not self.state[PIVOTS]:
            scores[begin:end] = 0.0  # as River says it while there is no reference
            return
        scale(rows, begin, end, self.limits, scaled, False)
        score(
            scaled, begin, end, self.feature, self.threshold, self.mass, self.reference,
            self.height, self.window_size, scores,
        )  # fmt: skip

    def _learn(
        self, rows: NDArray[np.float64], begin: int, end: int, scaled: NDArray[np.float64]
    ) -> None:
        if not self.planted:
            begin = self._plant(rows, begin, end)
        scale(rows, begin, end, self.limits, scaled, True)
        learn(
            scaled, begin, end, self.feature, self.threshold, self.mass, self.reference,
            self.state, self.height, self.window_size,
        )  # fmt: skip

    def _plant(self, rows: NDArray[np.float64], begin: int, end: int) -> int:
        """Make the trees for the first row that has any value, and return which one that is."""
        known = np.isfinite(rows[begin:end])
        some = np.flatnonzero(known.any(axis=1))
        if not some.size:
            return end
        first = begin + int(some[0])
        column = {name: j for j, name in enumerate(self.names) if known[first - begin, j]}
        chance = random.Random(self.seed)
        for t in range(self.n_trees):
            limits = dict.fromkeys(sorted(column), (0.0, 1.0))
            root = _plant(limits, self.height, PADDING, chance, l_mass=0, r_mass=0)
            self._flatten(root, t, 0, column)
        self.planted = True
        return first

    def _flatten(self, tree: Any, t: int, node: int, column: dict[str, int]) -> None:
        if not isinstance(tree, PaddedBranch):
            return
        self.feature[t, node] = column[tree.feature]
        self.threshold[t, node] = tree.threshold
        for side, child in enumerate(tree.children):
            self._flatten(child, t, 2 * node + 1 + side, column)
