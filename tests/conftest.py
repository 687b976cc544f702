"""What every test can rely on: loud skips, the corpus of real captures, and Hypothesis' settings.

Laws:

1. A skip is never silent: each is listed with its reason at the end of the run.
2. With `PENSTOCK_TEST_FORBID_SKIPS=1` a skip makes the run fail, because the machine that sets it
   is one that has all the suite needs.
3. Random cases are the same in every run that forbids skips, so that a red run can be repeated.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

FORBID_SKIPS = os.environ.get("PENSTOCK_TEST_FORBID_SKIPS", "0") not in ("", "0")

# Kernels run for the first time inside an example, and CI shares its cores: no deadline.
settings.register_profile("penstock", deadline=None)
settings.register_profile("ci", parent=settings.get_profile("penstock"), derandomize=True)
settings.load_profile("ci" if FORBID_SKIPS else "penstock")


@pytest.fixture(scope="session")
def corpus(request: pytest.FixtureRequest) -> Path:
    """Return the folder `PENSTOCK_CORPUS` names; skip when it is unset, fail when it is missing."""
    named = os.environ.get("PENSTOCK_CORPUS", "")
    if not named:
        pytest.skip("PENSTOCK_CORPUS is not set: no real captures to replay")
    folder = (request.config.rootpath / named).resolve()
    if not folder.is_dir():
        pytest.fail(f"PENSTOCK_CORPUS={named} is not a folder")
    return folder


def _skips(config: pytest.Config) -> list[str]:
    """List `test: reason` for everything that was skipped, whole modules included."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    lines = []
    for report in reporter.stats.get("skipped", []) if reporter else []:
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        lines.append(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    return lines


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a green run with skips into a red one where skips are forbidden."""
    if FORBID_SKIPS and session.exitstatus == pytest.ExitCode.OK and _skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print each skip with its reason, in red where it is a failure."""
    lines = _skips(config)
    if not lines:
        return
    colour = {"red": FORBID_SKIPS, "yellow": not FORBID_SKIPS}
    title = (
        "skipped, which PENSTOCK_TEST_FORBID_SKIPS makes a failure" if FORBID_SKIPS else "skipped"
    )
    terminalreporter.section(f"{len(lines)} {title}", sep="=", **colour)
    for line in lines:
        terminalreporter.line(f"SKIP {line}", **colour)
