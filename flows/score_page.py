"""Scores, labels and figures of an evaluation as a file to look at: a page, or the picture alone.

Law: a file needs nothing but itself: no script, and nothing from a network.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from core.errors import SinkError
from flows.evaluation import Evaluated, Evaluation, figures
from flows.score_plot import svg

if TYPE_CHECKING:
    from pathlib import Path

_STYLE = """
body { margin: 24px auto; max-width: 1112px; padding: 0 16px; color: #1d2126; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; display: inline-table; margin: 12px 32px 12px 0;
  vertical-align: top; }
caption { text-align: left; font-weight: 600; padding: 4px 0; white-space: nowrap; }
th, td { padding: 3px 12px 3px 0; border-bottom: 1px solid #d5d9dd; text-align: right; }
th { font-weight: 500; color: #4a525a; }
th:first-child, td:first-child { text-align: left; }
"""
_READ = """
Each column of the picture stands for many packets and shows the highest score among them: grey bars
for benign packets, a mark for each kind of attack. The rows below show where the packets of each
kind are. What is above a broken line is found at that false-positive rate.

A packet without a score counts as lower than any. TPR: share of the attack packets above the
threshold that so many of the benign packets (FPR) lie above. AUC: how often an attack packet has a
higher score than a benign one.

False alarms: what a configured rate came to on benign traffic, when each window was judged by the
scores before it.
"""


def draw(path: Path, done: Evaluation, what: Evaluated) -> None:
    """Write the file; one that was there is replaced when the new one is whole.

    Args:
        path: Where; `.svg` for the picture alone, else `.html`.
        done: The figures.
        what: What they are of.

    Raises:
        SinkError: It cannot be written.
    """
    picture = svg(what, done.counted_from, done.attacks[0].at)
    text = picture if path.suffix.lower() == ".svg" else _page(done, picture)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise SinkError(
            f"{path}: {error.strerror}; give --plot a file that can be written"
        ) from error


def _page(done: Evaluation, picture: str) -> str:
    name = escape(done.capture)
    tables = "".join(_table(*each) for each in figures(done))
    read = "".join(f"<p>{escape(text.strip())}</p>\n" for text in _READ.split("\n\n"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}: anomaly scores</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{picture}\n{tables}\n{read}</body>\n</html>"
    )


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """Return a table; a head without words is left out."""
    lines = [f"<caption>{escape(title)}</caption>"]
    if any(head):
        lines.append("".join(f"<th>{escape(name)}</th>" for name in head))
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" if line.startswith("<t") else line for line in lines)
    return f"<table>\n{body}\n</table>\n"
