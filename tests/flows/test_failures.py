"""What fails, fails as promised: a model leaves rows unscored, a sink ends the run with one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config import AnomalySettings
from core.errors import SinkError
from core.topics import TELEMETRY
from flows import steps
from flows.replay import replay
from flows.run import Run
from models.anomaly import Detector
from models.features import NAMES, RowBatch
from models.judge import Judge
from tests.flows.runs import (
    HOSTED,
    Done,
    counts,
    finish,
    penstock,
    records,
    settings,
    start,
    wait_until,
)


class Fails(Exception):
    """What a model of this test raises."""


class FailingDetector:
    """Fails on every third batch of rows; otherwise scores each row 1."""

    def __init__(self) -> None:
        self.calls = 0

    def score_learn_many(
        self, rows: np.ndarray[Any, Any], group_end: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """See `models.anomaly.Detector`."""
        self.calls += 1
        if self.calls % 3 == 0:
            raise Fails("out of its depth")
        return np.ones(len(rows)), np.zeros(rows.shape)


class FailingStep(steps.ScoreStep):
    """A score step whose model fails now and then."""

    def build(self) -> None:
        """Put the failing detector in the place of the one that settings name."""
        super().build()
        self._judge._detector = FailingDetector()
