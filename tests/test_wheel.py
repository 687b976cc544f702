"""The wheel alone is enough: it installs into an empty environment and runs from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "models", "connectors", "flows")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the clone and outside this environment; fail with what it said."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "PENSTOCK_TEST_FORBID_SKIPS")
    env = {k: v for k, v in os.environ.items() if k not in ours}
    # uv does not read pip's settings; who set them for pip means uv as well (see .ci/setup).
    for uv_name, pip_name in (("SSL_CERT_FILE", "PIP_CERT"), ("UV_DEFAULT_INDEX", "PIP_INDEX_URL")):
        if pip_name in env:
            env.setdefault(uv_name, env[pip_name])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def uv() -> Path:
    """Return the uv of this environment, or of the machine."""
    beside = Path(sys.executable).with_name("uv")
    found = beside if beside.exists() else shutil.which("uv")
    if not found:
        pytest.skip("uv is not installed: run `make setup`")
    return Path(found)


@pytest.fixture(scope="module")
def wheel(uv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what belongs in it, so that the clone stays as it is."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = copy / "dist"
    python = ("--python", sys.executable, "--no-build-isolation")
    run(uv, "build", "--quiet", "--wheel", *python, "--out-dir", out, cwd=copy)
    return next(out.glob("penstock-*.whl"))


@pytest.fixture(scope="module")
def installed(uv: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty environment and return that environment's commands."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    run(uv, "venv", "--quiet", "--python", sys.executable, folder, cwd=folder.parent)
    lock = ("--constraints", ROOT / "requirements.lock")
    python = ("--python", folder / "bin" / "python")
    run(uv, "pip", "install", "--quiet", *python, *lock, wheel, cwd=folder.parent)
    return folder / "bin"


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    """The archive has our packages and its metadata: no tests, no build files."""
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_no_other_distribution_owns_our_import_names(installed: Path, tmp_path: Path) -> None:
    """In an environment of its own each generic name belongs to Penstock alone (ADR 1)."""
    code = (
        "import importlib.metadata as m, json;"
        f"print(json.dumps({{n: m.packages_distributions().get(n) for n in {PACKAGES!r}}}))"
    )
    owners = json.loads(run(installed / "python", "-c", code, cwd=tmp_path).stdout)
    assert owners == {name: ["penstock"] for name in PACKAGES}


def test_the_installed_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    """`penstock --version` answers with the version the wheel was built as."""
    said = run(installed / "penstock", "--version", cwd=tmp_path).stdout
    assert "0.1.0" in said


def test_the_installed_command_replays_a_capture(installed: Path, tmp_path: Path) -> None:
    """A capture simulated and replayed by the installed command adds up to the last packet."""
    capture = tmp_path / "mixed.pcap"
    shape = ("--devices", "20", "--rate", "200", "--seconds", "2", "--seed", "7")
    simulate = ("simulate", capture, "--scenario", "mixed", *shape)
    run(installed / "penstock", *simulate, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    replay = ("replay", capture, "--sink", "null", "--json")
    done = run(installed / "penstock", *replay, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    summary = json.loads(done.stdout)
    assert summary["packets_in"] > 0
    assert summary["frames"] == summary["passed"] + sum(summary["dropped"].values())
    assert summary["packets_in"] == (
        summary["frames"] + sum(summary["ignored"].values()) + sum(summary["malformed"].values())
    )
    assert summary["files"] == {"read": 1, "truncated": 0, "unreadable": 0}
