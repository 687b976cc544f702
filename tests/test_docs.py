"""The documentation is true: its tables come from the code, its links and commands lead somewhere.

    python tests/test_docs.py

rewrites every table that lies between `<!-- table: NAME OF -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from prometheus_client.registry import CollectorRegistry

from connectors import metrics
from connectors.ledger import Ledger
from core import config
from core.reasons import FIRST_MALFORMED, Drop, Reason
from flows import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TABLE = re.compile(r"(<!-- table: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = tuple[str, ...]


def _settings(section: str) -> list[Row]:
    rows: list[Row] = [("setting", "default", "type and bounds", "meaning")]
    for each in config.describe():
        table, _, key = each.name.partition(".")
        if table == section:
            default = "not set" if each.default is None else f"`{json.dumps(each.default)}`"
            kind = ", ".join(filter(None, (each.type, each.bounds)))
            rows.append((f"`{key}`", default, kind, each.doc))
    return rows


def _files(floor: str) -> list[Row]:
    rows: list[Row] = [("file", "what it is")]
    for path in sorted((ROOT / floor).glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        first = " ".join(doc.split("\n\n")[0].split())
        if path.name != "__init__.py":
            rows.append((f"[{path.name}]({floor}/{path.name})", first))
    return rows


def _reasons(which: str) -> list[Row]:
    """Take each reason with the text that stands below it."""
    wanted = {
        "ignored": [r.name for r in Reason if 0 < r < FIRST_MALFORMED],
        "malformed": [r.name for r in Reason if r >= FIRST_MALFORMED],
        "dropped": [d.name for d in Drop if d >= Drop.QUEUE_FULL],
    }[which]
    rows: list[Row] = [("reason", "meaning")]
    for node in ast.parse((ROOT / "core/reasons.py").read_text()).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for named, below in itertools.pairwise(body):
            name = ast.unparse(named).partition(" = ")[0]
            if name in wanted and isinstance(below, ast.Expr):
                rows.append((f"`{name.lower()}`", " ".join(ast.literal_eval(below.value).split())))
    assert len(rows) == 1 + len(wanted)
    return rows


def _metrics(kind: str) -> list[Row]:
    registry = CollectorRegistry()
    ledger = Ledger()
    ledger.write("page", {f"{prefix}.a": 1 for prefix in metrics._LABELLED})
    metrics.publish(ledger, registry)
    families = [*registry.collect(), *(each for of in metrics.HISTOGRAMS for each in of.collect())]
    rows: list[Row] = [("metric", "labels", "meaning")]
    for family in families:
        if family.type == kind:
            name = family.name + ("_total" if kind == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels}
            labels |= {"stage"} if family.name == "penstock_stage_seconds" else set()
            shown = ", ".join(f"`{label}`" for label in sorted(labels - {"le"}))
            rows.append((f"`{name}`", shown, family.documentation))
    return rows


TABLES: dict[str, Callable[[str], list[Row]]] = {
    "settings": _settings,
    "files": _files,
    "reasons": _reasons,
    "metrics": _metrics,
}


def render(text: str) -> str:
    """Return a page with its tables made anew."""

    def make(match: re.Match[str]) -> str:
        head, *rows = TABLES[match[2]](match[3])
        lines = [head, tuple("---" for _ in head), *rows]
        cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
        return match[1] + "".join(f"| {line} |\n" for line in cells) + match[4]

    return TABLE.sub(make, text)


def _is_there(page: Path, target: str) -> bool:
    """Tell whether a relative link leads to a file, and to a heading in it if it names one."""
    name, _, heading = target.partition("#")
    path = page.parent / name if name else page
    if not path.exists():
        return False
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if heading else []
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return not heading or heading in slugs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page: Path) -> None:
    """Settings, reasons, metrics and files are described as the code has them."""
    text = page.read_text()
    assert text == render(text), "run: python tests/test_docs.py"


def test_every_table_is_somewhere() -> None:
    """No section of settings, no floor and no kind of reason or metric was left out."""
    found = {(m[2], m[3]) for page in PAGES for m in TABLE.finditer(page.read_text())}
    wanted = {("settings", each.name.partition(".")[0]) for each in config.describe()}
    wanted |= {("files", floor) for floor in ("flows", "models", "connectors", "core")}
    wanted |= {("reasons", kind) for kind in ("ignored", "malformed", "dropped")}
    wanted |= {("metrics", kind) for kind in ("counter", "gauge", "histogram")}
    assert wanted <= found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the project, and a heading that exists in it."""
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    relative = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert not [link for link in relative if not _is_there(page, link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Each `penstock` command in a block of code is one, and so are all its options."""
    group = typer.main.get_command(cli.app)
    context = typer.Context(group)
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    found = fenced.findall(page.read_text())
    blocks = "\n".join(text for kind, text in found if kind in ("", "sh", "console"))
    lines = re.findall(r"\bpenstock ([a-z-][^|>#\n]*)", blocks)
    for line in lines:
        first, *words = line.split()
        options = {"--version", "--help"} if first.startswith("-") else set()
        if not options:
            command = group.get_command(context, first)  # type: ignore[attr-defined]  # a group
            while hasattr(command, "commands"):
                command = command.commands.get(words.pop(0))
            assert command is not None, line
            options = {name for each in command.params for name in each.opts} | {"--help"}
        used = {word for word in [first, *words] if word.startswith("--")}
        assert used <= options, line


if __name__ == "__main__":
    for each_page in PAGES:
        before = each_page.read_text()
        if before != (after := render(before)):
            each_page.write_text(after)
            print(each_page.relative_to(ROOT))
