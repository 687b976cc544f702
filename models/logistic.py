"""Online logistic regression that knows how sure it is of its weights.

Laws:

1. A weight that was not learnt yet moderates what is predicted: few examples give no extreme
   probability.
2. NaN and infinities in a row mean unknown: they are neither evidence nor learnt.
3. Old examples fade: the past counts as `memory` examples at most, so that drift is followed.

Source: sequential updating as in D. Spiegelhalter and S. Lauritzen, "Sequential updating of
conditional probabilities on directed graphical structures" (1990); moderated prediction as in
D. MacKay, "The evidence framework applied to classification networks" (1992).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from river.base import Classifier

from models.logistic_kernels import learn, predict

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from numpy.typing import NDArray


class LogisticRegression(Classifier):
    """A Gaussian over the weights of a logistic regression, updated example by example.

    Args:
        prior: Feature name → what its weight is expected to be before anything is learnt. Features
            that are not named here are ignored. `""` is the weight of a constant 1.
        spread: Standard deviation of each weight before anything is learnt.
        memory: Examples that the past counts for at most.

    Example:
        >>> model = LogisticRegression({"": 0.0, "level": 0.0})
        >>> for level in (-1.0, 1.0, -2.0, 2.0) * 20:
        ...     model.learn_one({"level": level}, level > 0)
        >>> model.predict_one({"level": 1.5})
        True
    """

    def __init__(
        self, prior: Mapping[str, float], spread: float = 2.0, memory: float = 5_000.0
    ) -> None:
        self.prior = prior
        self.spread = spread
        self.memory = memory
        self.weights = np.array(list(prior.values()), np.float64)
        self.covariance = np.eye(self.weights.size) * spread**2

    @property
    def _multiclass(self) -> bool:
        return False

    def _row(self, x: Mapping[Hashable, Any]) -> NDArray[np.float64]:
        return np.array([1.0 if name == "" else x.get(name, 0.0) for name in self.prior], "f8")

    def predict_proba_one(self, x: dict[Hashable, Any], **_: Any) -> dict[Any, float]:
        """Return the probability of `True` and of `False`."""
        yes = float(predict(self.weights, self.covariance, self._row(x)))
        return {False: 1.0 - yes, True: yes}

    def learn_one(self, x: dict[Hashable, Any], y: Any, **_: Any) -> None:
        """Learn that a row was true, or not."""
        row, truth, fading = self._row(x), float(bool(y)), 1.0 + 1.0 / self.memory
        learn(self.weights, self.covariance, row, truth, fading, self.spread**2, np.empty(row.size))
