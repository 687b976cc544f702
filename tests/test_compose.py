"""The compose file and the image: pinned, bounded, without secrets, and running what they say.

There need not be a container engine: what is tested is what the files say. The replay is carried
out with the command and the settings of its service, on a broker of the tests.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from core.config import decode
from core.topics import TELEMETRY
from flows.simulate import simulate
from tests.flows.runs import finish, start
from tests.kafka.broker import Broker
from tests.kafka.topics import read

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[?-][^}]*)?\}")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(found) == {"store", "buckets", "automq", "penstock"}
    return found


def words(value: object) -> Iterator[str]:
    """Yield every text of a value, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (str(key), *words(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner)
    else:
        yield str(value)


def test_every_image_is_pinned_to_a_release(services: dict[str, dict[str, Any]]) -> None:
    """No image floats: each has a tag that names one release, those of the Dockerfile included."""
    images = [service["image"] for service in services.values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(images) == 6
    release = re.compile(r"[a-z./-]+:(\d+\.\d+\.\d+[\w.-]*|RELEASE\.\d{4}-\d\d-\d\dT[\d-]+Z)")
    assert [image for image in images if not release.fullmatch(image)] == []
    about = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert about is not None
    assert services["penstock"]["image"] == f"penstock:{about[1]}"


def test_what_goes_on_has_a_check_of_its_health(services: dict[str, dict[str, Any]]) -> None:
    """Each service that does not end at once says when it is well, and is waited for until then."""
    for name, service in services.items():
        assert service["mem_limit"]
        assert service["restart"]
        if name != "buckets":
            assert set(service["healthcheck"]) >= {"test", "interval", "timeout", "retries"}, name
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert waits == {
        "store": {},
        "buckets": {"store": {"condition": "service_healthy"}},
        "automq": {"buckets": {"condition": "service_completed_successfully"}},
        "penstock": {"automq": {"condition": "service_healthy"}},
    }


def test_no_secret_is_in_the_file(services: dict[str, dict[str, Any]]) -> None:
    """Credentials come from the environment, without a default; the example names each of them."""
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    used = {match[1]: match[2] or "" for text in words(services)
            for match in VARIABLE.finditer(text)}  # fmt: skip
    assert set(used) == set(example)
    for name, otherwise in used.items():
        assert otherwise.startswith(":?") == ("KEY" in name), name
    credentials = [
        value
        for service in services.values()
        for name, value in service.get("environment", {}).items()
        if re.search("KEY|PASSWORD|SECRET|USER", name)
    ]
    assert len(credentials) == 6
    assert [value for value in credentials if not VARIABLE.fullmatch(value)] == []
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/.env" in ignored


def test_nothing_is_reached_from_elsewhere(services: dict[str, dict[str, Any]]) -> None:
    """Ports are published on 127.0.0.1 only, and volumes are declared or folders of the clone."""
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    mounts = [v for service in services.values() for v in service.get("volumes", ())]
    named = {mount.partition(":")[0] for mount in mounts if re.match(r"\w+:", mount)}
    assert named == set(declared)
    files = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]
    assert files == ["./deploy/penstock.toml"]
    assert all((ROOT / name).is_file() for name in files)
    flow = services["penstock"]
    assert (flow["read_only"], flow["cap_drop"]) == (True, ["ALL"])


def test_automq_keeps_its_log_in_the_store(services: dict[str, dict[str, Any]]) -> None:
    """Data, operations and write-ahead log are addresses of buckets that are made before."""
    broker = services["automq"]
    start_script = "exec /opt/automq/kafka/bin/kafka-server-start.sh"
    script = broker["command"][-1].replace("$$", "$")
    assert start_script in script
    shown = subprocess.run(
        ["bash", "-ec", script.replace(start_script, "printf '%s\\n'")],
        env=broker["environment"] | {"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown.pop(0) == "/opt/automq/kafka/config/kraft/server.properties"
    assert set(shown[::2]) == {"--override"}
    given = dict(line.split("=", 1) for line in shown[1::2])
    made = set(re.findall(r"store/([a-z-]+)", services["buckets"]["command"][0]))
    where = r"\?region=us-east-1&endpoint=http://store:9000&pathStyle=true"
    used = {
        key: re.fullmatch(rf"[01]@s3://([a-z-]+){where}", given[key])
        for key in ("s3.data.buckets", "s3.ops.buckets", "s3.wal.path")
    }
    assert all(used.values()), given
    assert {match[1] for match in used.values() if match} == made == {"automq-data", "automq-ops"}
    assert given["auto.create.topics.enable"] == "false"
    kept = [volume.split(":")[1] for volume in broker["volumes"]]
    assert any(given["log.dirs"].startswith(folder) for folder in kept)
    advertised = given["advertised.listeners"].split(",")
    address = next(a for a in services["penstock"]["command"] if a.startswith("--sink="))
    assert address.removeprefix("--sink=kafka") in [a.removeprefix("PLAINTEXT") for a in advertised]


@pytest.mark.slow
def test_the_replay_does_what_its_service_says(
    services: dict[str, dict[str, Any]], own_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    """The command of the service, on paths of this machine, delivers a capture to Kafka."""
    path = tmp_path / "a.pcap"
    written = simulate(
        path, scenario="steady", devices=5, rate_hz=50.0, seconds=2.0, seed=1, port=9999
    )
    broker = own_broker()
    here = {
        "/captures": str(path),
        "--config=/etc/penstock/penstock.toml": f"--config={ROOT / 'deploy' / 'penstock.toml'}",
        "--sink=kafka://automq:9092": f"--sink=kafka://{broker.servers}",
        "--recovery=/var/lib/penstock/recovery": f"--recovery={tmp_path / 'recovery'}",
    }
    command = services["penstock"]["command"]
    assert set(here) <= set(command)
    entry = re.search(r'^ENTRYPOINT \["python", (.+)\]', DOCKERFILE.read_text(), re.MULTILINE)
    assert entry is not None
    begin = [*re.findall(r'"([^"]+)"', entry[1]), *(here.get(word, word) for word in command)]
    done = finish(start(begin, tmp_path, {"PENSTOCK_METRICS_PORT": "0"}))
    assert done.code == 0, done.err
    assert done.summary["delivered"][TELEMETRY] == written.frames
    assert len(read(broker.servers, TELEMETRY)) == written.frames


def test_settings_of_the_replay_decode(services: dict[str, dict[str, Any]]) -> None:
    """What is mounted as its settings is understood, and its metrics are where it is asked."""
    settings = decode([("file", tomllib.loads((ROOT / "deploy" / "penstock.toml").read_text()))])
    asked = f"localhost:{settings.metrics.port}/metrics"
    assert asked in services["penstock"]["healthcheck"]["test"][-1]
    assert services["penstock"]["ports"] == [
        f"127.0.0.1:{settings.metrics.port}:{settings.metrics.port}"
    ]
    grace_s = int(services["penstock"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.kafka.shutdown_s


def runtime(lock: str) -> str:
    """Run what the image is built with."""
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "runtime_lock.py"],
        input=lock, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def needed(name: str, found: set[str]) -> set[str]:
    """Return what an installed distribution needs, itself included, without extras."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name not in found:
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                needed(wanted.name, found)
    return found


def test_the_image_holds_what_running_needs(services: dict[str, dict[str, Any]]) -> None:
    """Everything Penstock imports is installed by hash, and no tool of ours."""
    lock = (ROOT / "requirements.lock").read_text()
    kept = runtime(lock)
    entries = re.findall(r"^([a-z0-9-]+)==", kept, re.MULTILINE)
    assert kept.count("--hash=sha256:") > len(entries)
    assert all(line in lock for line in kept.splitlines())
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted: set[str] = set()
    for line in asked:
        needed(Requirement(line).name, wanted)
    assert wanted <= set(entries)
    # What only other systems need is in the lock, too.
    assert set(entries) - wanted <= {"colorama"}
    text = DOCKERFILE.read_text()
    copied = set(re.findall(r"^COPY (\w+) /opt/penstock/\1$", text, re.MULTILINE))
    assert copied == {"core", "models", "connectors", "flows"}
    assert "--require-hashes" in text
    assert re.search(r"^USER penstock$", text, re.MULTILINE)
    sent = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all(f"!{name}" in sent for name in source.split()), source
