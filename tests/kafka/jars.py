"""The jars of the broker: fetched once by Maven into `build/`, and found there ever after.

Laws:

1. A folder of jars is whole or absent: it is filled under another name and then renamed.
2. Two that fetch at once fetch once; a fetch that was killed leaves nothing that is taken for jars.
3. Once they are here, neither Maven nor a network is needed.

`python -m tests.kafka.jars` fetches them, and prints where they are.

Source: Apache Kafka's artifacts of Maven Central, as `pom.xml` pins them.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
CACHE = POM.parents[2] / "build"
JAVA_MIN = 17
"""The oldest Java that Kafka 4 runs on."""
FETCH_S = 600.0

PACKAGES = "apt-get install default-jre-headless maven"


class MissingError(Exception):
    """This machine lacks something that has to be installed; the text names it."""


class FetchError(Exception):
    """Maven could not fetch the jars; the text is what it said."""


def jars(cache: Path = CACHE, pom: Path = POM) -> Path:
    """Return the folder of the jars, fetching them if they are not there.

    Args:
        cache: Folder they are kept in, by the digest of the POM.
        pom: What names them.

    Raises:
        MissingError: Java is missing or too old, or there is no Maven to fetch them.
        FetchError: They could not be fetched.
    """
    _check_java()
    digest = blake2b(pom.read_bytes(), digest_size=6).hexdigest()
    folder = cache / f"kafka-{digest}"
    if folder.is_dir():
        return folder
    if shutil.which("mvn") is None:
        raise MissingError(f"no Maven to fetch a broker with; install it: {PACKAGES}")
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / "kafka.lock"):
        if not folder.is_dir():
            _fetch(pom, cache / "kafka-partial", folder)
    return folder


def _check_java() -> None:
    if shutil.which("java") is None:
        raise MissingError(f"no Java to run a broker with; install it: {PACKAGES}")
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA_MIN:
        shown = said.partition("\n")[0]
        raise MissingError(f"a broker needs Java {JAVA_MIN}, this is {shown}; install: {PACKAGES}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process that holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(pom: Path, partial: Path, folder: Path) -> None:
    """Fill a folder under another name, and give it its own."""
    shutil.rmtree(partial, ignore_errors=True)  # of a fetch that was killed
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies",
         "-DincludeScope=runtime", f"-DoutputDirectory={partial.resolve()}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=FETCH_S,
    )  # fmt: skip
    if done.returncode or not any(partial.glob("kafka_*.jar")):
        raise FetchError(f"Maven could not fetch the broker's jars: {done.stdout}{done.stderr}")
    partial.rename(folder)


if __name__ == "__main__":
    try:
        where = jars()
    except (MissingError, FetchError) as error:
        sys.exit(str(error))
    print(f"{len(list(where.glob('*.jar')))} jars in {where}")
