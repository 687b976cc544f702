"""The commands that speak to brokers: `penstock topics …` and `penstock dlq …`.

Laws:

1. What a topic holds was written by anybody: it is bounded, and no control character of it reaches
   a terminal, as a table or as JSON.
2. A command that could not do all it was asked exits with 1, and says what is missing.

What lies under the commands is imported when one is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import UsageError
from core.nearest import meant
from core.plain import plain
from flows import options
from flows.console import put, say

if TYPE_CHECKING:
    from rich.table import Table

    from connectors.dead_letters import Shown
    from connectors.kafka_topics import Created, Described
    from connectors.put_back import Replayed
    from core.sections import KafkaSettings

_WIDE = 160
"""Columns of a table where there is no terminal to fit into."""
_UNBOUNDED = 10_000
"""Columns that any table of ours fits into."""
_HEAD_MAX = 120
"""Characters of a value in a table."""

_Brokers = Annotated[str, typer.Argument(metavar="kafka://HOST:PORT", help="The brokers.")]
_Topic = Annotated[
    str, typer.Argument(metavar="kafka://HOST:PORT/TOPIC", help="A dead-letter topic.")
]
_Reason = Annotated[str | None, typer.Option("--reason", help="Only letters of this reason.")]


def _app(about: str) -> typer.Typer:
    return typer.Typer(
        help=about, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )  # fmt: skip


topics_app = _app("Create or describe topics.")
dlq_app = _app("List, show or put back dead letters.")


@topics_app.command("create")
def topics_create(
    brokers: _Brokers, config: options.Config = None, as_json: options.Json = False
) -> None:
    """Create missing topics; the others stay as they are."""
    from connectors.kafka_topics import create

    settings, servers, _ = _asked(brokers, config, topic=False)
    made = create(settings, servers)
    if as_json:
        _put_json({"topics": made})
        return
    for each in made:
        put(_line(each))


@topics_app.command("describe")
def topics_describe(
    brokers: _Brokers,
    topic: Annotated[str | None, typer.Argument(help="One topic; else all of Penstock's.")] = None,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Say how topics are laid out and what they hold."""
    from connectors.kafka_topics import describe

    settings, servers, _ = _asked(brokers, config, topic=False)
    found = describe(settings, servers, topic)
    if as_json:
        _put_json({"topics": found})
    else:
        _put_layouts(found)


@dlq_app.command("list")
def dlq_list(
    brokers: _Brokers, config: options.Config = None, as_json: options.Json = False
) -> None:
    """Count the dead letters of each topic by reason."""
    from connectors.dead_letters import listed

    settings, servers, _ = _asked(brokers, config, topic=False)
    found = listed(settings, servers)
    if as_json:
        _put_json({"topics": found})
        return
    rows: list[tuple[object, ...]] = []
    for each in found:
        missing = each.records is None
        rows.append(
            (each.name, "no such topic" if missing else "", "" if missing else each.records)
        )
        rows += [("", reason, count) for reason, count in each.reasons.items()]
        rows += [("", "(unreadable)", each.unreadable)][: each.unreadable]
    _put_table(_table("dead letters", ("topic", "reason", "#records"), rows))


@dlq_app.command("show")
def dlq_show(
    topic: _Topic,
    reason: _Reason = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000, help="Most records shown, the last ones.")
    ] = 10,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Show the last records of a dead-letter topic."""
    from connectors.dead_letters import shown

    settings, servers, name = _asked(topic, config, topic=True)
    found = [_readable(each) for each in shown(settings, servers, name, _known(reason), limit)]
    if as_json:
        _put_json({"topic": name, "records": found})
        return
    if not found:
        say(f"{name}: no dead letters" + ("" if reason is None else f" of reason {reason}"))
    for each in found:
        put("\n".join(f"{field:<9} {_shown(value)}" for field, value in each.items()) + "\n")


@dlq_app.command("replay")
def dlq_replay(
    topic: _Topic,
    reason: _Reason = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="kafka://HOST:PORT", help="Other brokers to deliver to."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Put refused records back where they were meant for."""
    from connectors.put_back import replay
    from core.kafka_address import parse
    from flows.carry import announcing_compilation

    settings, servers, name = _asked(topic, config, topic=True)
    target = None if to is None else parse(to, topic=False).servers
    with announcing_compilation():
        done = replay(
            settings, servers, name, to=target, reason=_known(reason), dry_run=dry_run, notify=say
        )
    if as_json:
        _put_json(done)
    else:
        _put_table(_account(done))
    if done.packets:
        say(
            f"packets that do not decode: {done.packets:,}; "
            f"penstock replay kafka://{servers}/{name} reads them again"
        )
    if cut := done.kept.get("value_cut", 0):
        say(
            f"records longer than a dead letter holds: {cut:,}; "
            "replay the captures they came from, where their topic takes more"
        )
    if done.replayed and not done.dry_run:
        say(
            "their letters stay where they are: given again, this command puts the same records "
            "back again, with the same ce_id"
        )
    raise typer.Exit(1 if done.failed else 0)


def _asked(address: str, config: str | None, *, topic: bool) -> tuple[KafkaSettings, str, str]:
    """Return the settings, the brokers and the topic of a command."""
    from connectors.kafka_client import check
    from connectors.settings import load
    from core.kafka_address import parse

    servers, name = parse(address, topic=topic)
    settings = load(config).settings.kafka
    check(settings)
    return settings, servers, name


def _known(reason: str | None) -> str | None:
    """Return a reason if there is one of that name; what is misspelt would match nothing."""
    from typing import get_args

    from core.reasons import MALFORMED
    from core.undeliverable import Refused

    names = [*get_args(Refused), *(each.name.lower() for each in MALFORMED)]
    if reason is None or reason in names:
        return reason
    hint = meant(reason, names, f"these are: {', '.join(names)}")
    raise UsageError(f"--reason: {plain(reason)} is none; {hint}")


def _line(each: Created) -> str:
    """Return what became of a topic that was to be created."""
    layout = each.layout
    if each.created:
        return f"{layout.name}: created, {layout.partitions} partitions"
    there = f"{layout.name}: there already, {layout.partitions} partitions"
    return "; ".join([there, *each.differences])


def _put_layouts(found: list[Described]) -> None:
    """Print a row for each topic, or a line for each cell where a terminal is too narrow."""
    heads = ("topic", "#partitions", "#replicas", "#kept", "timestamps", "cleanup",
             "#record bytes max", "#records", "key")  # fmt: skip
    rows = [
        (each.name, each.partitions, each.replication, _days(each.retention_ms), each.timestamps,
         each.cleanup, each.message_bytes_max, each.records, each.key)
        if each.partitions
        else (each.name, "missing", *[""] * 6, each.key)
        for each in found
    ]  # fmt: skip
    grid = _table("topics", heads, rows)
    if _fits(grid):
        _put_table(grid)
        return
    for row in rows:
        cells = zip((head.removeprefix("#") for head in heads), row, strict=True)
        put("".join(f"{head:<16} {_shown(cell)}\n" for head, cell in cells if cell != ""))


def _days(retention_ms: int | None) -> str | None:
    if retention_ms is None:
        return None
    return "for ever" if retention_ms < 0 else f"{retention_ms / 86_400_000:g} d"


def _account(done: Replayed) -> Table:
    """Return what became of the records of a dead-letter topic."""
    verb = "would be put back into" if done.dry_run else "put back into"
    rows: list[tuple[object, ...]] = [
        ("records read", done.read),
        *((f"  {verb} {topic}", count) for topic, count in done.replayed.items()),
        *((f"  FAILED: {why}", count) for why, count in done.failed.items()),
        *((f"  cannot be put back: {why}", count) for why, count in done.kept.items()),
        *[("  packets that do not decode", done.packets)][: done.packets],
        *[("  of other reasons", done.skipped)][: done.skipped],
        *[("  unreadable", done.unreadable)][: done.unreadable],
    ]
    return _table(done.topic, ("", "#"), rows)


def _readable(each: Shown) -> dict[str, Any]:
    """Return what is shown of a record, of a field that says nothing nothing."""
    if each.topic is None and each.reason is not None:
        head = each.head.hex()
    else:
        head = each.head.decode(errors="replace")
    found = {
        "at": None if each.ts is None else _time(each.ts),
        "reason": each.reason or "(unreadable)",
        "topic": each.topic,
        "key": None if each.key is None else each.key[:_HEAD_MAX].decode(errors="replace"),
        "error": each.error,
        "source": each.source,
        "ordinal": each.ordinal,
        "bytes": each.size,
        "whole": each.is_whole,
        "head": head,
        "partition": each.partition,
        "offset": each.offset,
    }
    return {field: value for field, value in found.items() if value is not None}


def _time(at_ns: int) -> str:
    second, ns = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def _shown(value: object) -> str:
    """Return a value of a table as text that can be printed; unknown is never 0."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> Table:
    """Return a table; a head that begins with # is of numbers."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", show_header=any(h.strip("#") for h in heads))
    for head in heads:
        number = head.startswith("#")
        grid.add_column(
            head.removeprefix("#"), justify="right" if number else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*(Text(_shown(value)) for value in row))
    return grid


def _fits(grid: Table) -> bool:
    """Tell whether a table need not be squeezed into the terminal, if there is one."""
    from rich.console import Console

    if sys.stdout is None or not sys.stdout.isatty():
        return True
    console = Console()
    unbounded = console.options.update(max_width=_UNBOUNDED)
    return console.measure(grid, options=unbounded).maximum <= console.width


def _put_table(grid: Table) -> None:
    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console() if is_terminal else Console(width=_WIDE)
    with console.capture() as text:
        console.print(grid)
    put("\n".join(line.rstrip() for line in text.get().rstrip("\n").split("\n")))


def _put_json(value: object) -> None:
    """Print one JSON object, with escapes for whatever is no text to look at."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    put("".join(c if c.isprintable() else _escaped(c) for c in text))


def _escaped(character: str) -> str:
    """Return a character as JSON escapes it: outside of strings there is none to be escaped."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
