"""Online anomaly detectors over rows of features, by name.

Laws of a detector:

1. Score, then learn: a group of rows is scored by what was learnt before it, then learnt whole. So
   scores depend on the rows and their groups, never on how they were cut into batches.
2. Until `warm_rows` rows are learnt a score is NaN, which means warming, not harmless.
3. NaN in a row means unknown: it is neither evidence nor learnt.
4. A detector is an estimator of River: it can be pickled in mid-stream and goes on bit by bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from core.errors import SettingError
from models.gaussian import GaussianDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

OURS = ("gaussian", "HalfSpaceTrees")
"""Detectors that take whole arrays."""
RIVER = ("LODA", "LocalOutlierFactor", "OneClassSVM")
"""Detectors of `river.anomaly` that score a row by itself, in Python."""


class Detector(Protocol):
    """What the graph asks of a detector."""

    @property
    def learnt(self) -> int:
        """Rows learnt so far."""
        ...

    def score_learn_many(
        self, rows: NDArray[np.float64], group_end: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score and learn rows group by group.

        Args:
            rows: `(m, d) float64`; NaN where unknown.
            group_end: `(g,) int64`; where each group of rows ends.

        Returns:
            The score of each row, `(m,) float64`, NaN while warming; and how far each feature lay
            from its mean in standard deviations, `(m, d) float64`, as evidence.
        """
        ...


def make_detector(name: str, names: Sequence[str], warm_rows: int, seed: int) -> Detector:
    """Build a detector by the name it has in settings.

    Args:
        name: One of `OURS` or of `RIVER`.
        names: Names of the features.
        warm_rows: Rows learnt before anything is scored.
        seed: Seed of detectors that use chance.

    Raises:
        SettingError: There is no such detector.
    """
    # River takes a second to import; who named none of its detectors does not wait for it.
    if name == "gaussian":
        return GaussianDetector(names, warm_rows)
    if name == "HalfSpaceTrees":
        from models.half_space import HalfSpaceTrees

        return HalfSpaceTrees(names, seed=seed, warm_rows=warm_rows)
    if name in RIVER:
        from models.river_detector import RiverDetector

        return RiverDetector(name, names, warm_rows, seed)
    known = ", ".join(OURS + RIVER)
    raise SettingError(f"anomaly.detector: {name!r} is unknown; want one of: {known}")
