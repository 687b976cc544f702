"""The style is a test: sizes, floors, reasons for exceptions, and what no file may contain."""

from __future__ import annotations

import ast
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "models", "connectors", "flows")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# Written so that they do not match themselves.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|home|root|Users|tmp/pen)/")
REGISTRY_HOST = re.compile(
    r"pypi[.]org|pythonhosted[.]org|npmjs[.]org|anaconda[.]org|proxy[.]golang[.]org"
)
SWITCHED_OFF = re.compile(r"#\s*(?:noqa|type:\s*ignore|mypy:\s*ignore|ruff:\s*noqa|fmt:\s*off)\b")
WITH_REASON = re.compile(
    r"#\s*(?:noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*|type:\s*ignore\[[\w\-, ]+\])\s+(?:#\s*)?\w\S*\s+\S"
)

# Whole packages are kept apart by import-linter; these are parts of packages, and single modules.
MAY_IMPORT = {
    "bytewax.operators": lambda name: name.startswith(("flows/", "tests/")),
    "scapy": lambda name: name.startswith("tests/") or name == "flows/simulate.py",
}


@functools.cache
def names() -> tuple[str, ...]:
    """Name every file of the repository, committed or about to be, that exists and is text."""
    listing = subprocess.run(
        # Whoever owns the clone: a container's user often is somebody else.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    found = sorted(name for name in set(listing.stdout.split("\0")) if name)
    return tuple(n for n in found if (ROOT / n).is_file() and b"\0" not in _bytes(n))


def _bytes(name: str) -> bytes:
    return (ROOT / name).read_bytes()


@functools.cache
def text(name: str) -> str:
    """Return a file's text."""
    return _bytes(name).decode()


@functools.cache
def tree(name: str) -> ast.Module:
    """Return a Python file's syntax tree."""
    return ast.parse(text(name), name)


def sources() -> list[str]:
    """Name the Python files."""
    return [name for name in names() if name.endswith(".py")]


def functions(name: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return every function of a file, methods and nested ones included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(name)) if isinstance(node, kinds)]


def imported(name: str) -> list[tuple[int, str]]:
    """Return line and dotted name of everything a file imports."""
    found = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_the_repository_is_seen() -> None:
    """The lists the other tests walk are not empty."""
    assert {"pyproject.toml", "requirements.lock", "core/kernels.py"} <= set(names())


def test_files_are_short() -> None:
    """A Python file has one noun and at most 400 lines."""
    long = {n: count for n in sources() if (count := len(text(n).splitlines())) > FILE_LINES_MAX}
    assert not long


def test_functions_are_short() -> None:
    """A function has at most 70 lines, docstring included."""
    long = [
        f"{name}:{node.lineno} {node.name}: {size}"
        for name in sources()
        for node in functions(name)
        if (size := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long


def test_imports_only_go_down() -> None:
    """The floors hold: import-linter keeps every contract in pyproject.toml."""
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_parts_of_packages_stay_on_their_floor(module: str) -> None:
    """Only flows builds graphs, only its simulator makes packets by hand; tests may do both."""
    wrong = [
        f"{name}:{line} {what}"
        for name in sources()
        for line, what in imported(name)
        if (what == module or what.startswith(f"{module}.")) and not MAY_IMPORT[module](name)
    ]
    assert not wrong


def test_exceptions_from_the_rules_carry_a_reason() -> None:
    """Each switched-off check names its rule and says why, on the same line; none is for a file."""
    naked = [
        f"{name}:{token.start[0]} {token.string}"
        for name in sources()
        for token in tokenize.generate_tokens(io.StringIO(text(name)).readline)
        if token.type == tokenize.COMMENT
        and SWITCHED_OFF.search(token.string)
        and not WITH_REASON.search(token.string)
    ]
    assert not naked


def test_one_broad_except() -> None:
    """Only flows/steps.py, the border to Bytewax, catches whatever there is."""
    broad = []
    for name in sources():
        if name == "flows/steps.py":
            continue
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ExceptHandler):
                caught = {n.id for n in ast.walk(node.type or node) if isinstance(n, ast.Name)}
                if node.type is None or caught & {"Exception", "BaseException"}:
                    broad.append(f"{name}:{node.lineno}")
    assert not broad


def test_nobody_raises_a_bare_exception() -> None:
    """What is raised has a name in the error tree or in the standard library."""
    bare = [
        f"{name}:{node.lineno}"
        for name in sources()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and re.match(r"(Base)?Exception\b(?!Group)", ast.unparse(node.exc))
    ]
    assert not bare


def test_public_names_are_documented() -> None:
    """Each module, public function and class of the packages, and each test says what it is."""
    silent = []
    for name in sources():
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        public: list[ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]
        public = [tree(name)]
        for node in tree(name).body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                wanted = name.startswith(PACKAGES) or node.name.startswith("test_")
                public += [node] if wanted else []
        silent += [
            f"{name}: {getattr(node, 'name', 'module')}"
            for node in public
            if not ast.get_docstring(node)
        ]
    assert not silent


def test_generators_of_chance_are_seeded() -> None:
    """A random generator is always given its seed."""
    unseeded = [
        f"{name}:{node.lineno}"
        for name in sources()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call)
        and not node.args
        and not node.keywords
        and re.fullmatch(
            r"(.*\.)?(default_rng|Random|RandomState|SeedSequence)", ast.unparse(node.func)
        )
    ]
    assert not unseeded


def test_no_machine_and_no_registry_is_named() -> None:
    """The files work on any machine: no folder of one, and no address of a package registry."""
    named = [
        f"{name}:{number} {line.strip()[:80]}"
        for name in names()
        for number, line in enumerate(text(name).splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
    ]
    assert not named


def test_the_lock_pins_every_hash_and_names_no_address() -> None:
    """Each requirement is pinned to one version with its hashes; no index, link or URL appears."""
    lock = text("requirements.lock")
    assert "http" not in lock
    assert "://" not in lock
    entries = re.split(r"\n(?=[a-z0-9])", lock)[1:]
    loose = [
        entry.split()[0]
        for entry in entries
        if not re.match(r"[a-z0-9._-]+==[\w.]+ ", entry) or "--hash=sha256:" not in entry
    ]
    assert len(entries) > 20
    assert not loose
    assert not re.search(r"^\s*(-i|-f|--index|--find|--extra|--trusted)", lock, re.MULTILINE)


def test_packages_hold_no_tests_and_tests_no_packages() -> None:
    """Tests mirror the folders without `__init__.py`; the four packages each have one."""
    assert not [name for name in names() if re.match(r"tests/.*__init__\.py$", name)]
    assert [p for p in PACKAGES if (ROOT / p / "__init__.py").is_file()] == list(PACKAGES)


@pytest.mark.parametrize(("forbidden", "code"), [("0", 0), ("1", 1)])
def test_a_skip_is_loud_and_fails_where_it_is_forbidden(
    tmp_path: Path, forbidden: str, code: int
) -> None:
    """A skip is listed with its reason, and makes a run that forbids skips fail."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "conftest.py")
    case = "import pytest\n\ndef test_a():\n    pytest.skip('no broker here')\n"
    (tmp_path / "test_case.py").write_text(case)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=tmp_path,
        env=os.environ | {"PENSTOCK_TEST_FORBID_SKIPS": forbidden},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "SKIP test_case.py::test_a: no broker here" in done.stdout
    assert "SKIP test_module.py: could not import 'no_such'" in done.stdout
