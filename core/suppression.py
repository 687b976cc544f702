"""Suppressions: findings that somebody decided not to be told, by key and rule, for a time.

    [[suppress]]
    key = "10.0.0.0/8"            # an address, a network, or a name with * and ? in it
    rule = "scan_*"               # a rule, likewise; all when left out
    until = 2027-01-31T00:00:00Z  # when it ends, in packet time; never when left out
    reason = "inventory scanner"

    [[allow]]                     # who is trusted in everything, for ever
    key = "backup-??"

Laws:

1. A bad entry is one line with its number in the file, and nothing of the file is used.
2. An entry whose time is over suppresses nothing. Time is that of packets.

Not here: what becomes of what is suppressed (`core.docket`).
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from core.errors import SettingError
from core.nearest import meant
from core.plain import plain
from core.rules import RULES

if TYPE_CHECKING:
    from core.sighting import Sighting

ENTRIES_MAX = 10_000
BYTES_MAX = 4 << 20
_REMEMBERED_MAX = 4_096
_TABLES = {"suppress": ("key", "rule", "until", "reason"), "allow": ("key", "reason")}
_HEAD = re.compile(r"^\s*\[\[\s*[\"']?(\w+)[\"']?\s*\]\]")
_ASSIGNED = re.compile(r"^\s*[\"']?([\w-]+)[\"']?\s*=")
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)| \(at end of document\)")
_ANY = re.compile(r"[*?\[]")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision.

    Attributes:
        line: Where in the file it is.
        key: Pattern of keys; not used when there is a network.
        network: Network that keys are in.
        rule: Pattern of rules.
        until_ns: When it ends, ns since the epoch.
    """

    line: int
    key: str
    network: Network | None
    rule: str
    until_ns: int | None

    def is_about(self, rule: str, key: str) -> bool:
        """Tell whether it is about findings of a rule and a key."""
        if not fnmatchcase(rule, self.rule):
            return False
        if self.network is None:
            return fnmatchcase(key, self.key)
        try:
            return ipaddress.ip_address(key) in self.network
        except ValueError:
            return False


class Suppressions:
    """What is not told.

    Args:
        entries: In the order of the file.
        name: Name of the file, for people.
    """

    def __init__(self, entries: tuple[Entry, ...] = (), name: str = "") -> None:
        self._entries, self._name = entries, name
        self._told: set[Entry] = set()
        # Keys that were looked up lately, with what is about them.
        self._known: dict[tuple[str, str], tuple[Entry, ...]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def covers(self, seen: Sighting) -> bool:
        """Tell whether a sighting is not to be told."""
        if not self._entries:
            return False
        name = (seen.rule, seen.key)
        about = self._known.get(name)
        if about is None:
            about = tuple(e for e in self._entries if e.is_about(*name))
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            self._known[name] = about
        return any(e.until_ns is None or seen.window_ns < e.until_ns for e in about)

    def expired(self, now_ns: int) -> str:
        """Say in one line which entries ended since the last call; empty when none did."""
        ended = [
            e for e in self._entries
            if e.until_ns is not None and e.until_ns <= now_ns and e not in self._told
        ]  # fmt: skip
        if not ended:
            return ""
        self._told.update(ended)
        lines = ", ".join(str(e.line) for e in ended[:10]) + (", …" if len(ended) > 10 else "")
        what = "these suppress" if len(ended) > 1 else "this one suppresses"
        s = "s" if len(ended) > 1 else ""
        return f"{self._name}, line{s} {lines}: expired by packet time; {what} nothing any more"


def parse(text: bytes, name: str) -> Suppressions:
    """Read a file of suppressions.

    Args:
        text: What it holds.
        name: Its name, for people.

    Raises:
        SettingError: It is not TOML, or an entry is wrong.
    """
    name = plain(name)
    if len(text) > BYTES_MAX:
        raise SettingError(f"{name}: larger than {BYTES_MAX} bytes")
    try:
        lines = text.decode()
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise SettingError(f"{name}, line {line}: not UTF-8") from None
    try:
        tables = tomllib.loads(lines)
    except tomllib.TOMLDecodeError as error:
        where = _AT_LINE.search(str(error))
        line = int(where[1]) if where and where[1] else lines.count("\n") + 1
        raise SettingError(f"{name}, line {line}: {_AT_LINE.sub('', str(error))}") from None
    where_is = _places(lines)
    entries = []
    for table, given in tables.items():
        if table not in _TABLES or not isinstance(given, list):
            at = where_is.get((table, 0), {}).get("", _line_of(lines, table))
            want = "[[suppress]] and [[allow]]"
            raise SettingError(f"{name}, line {at}: unknown table {table!r}; want {want}")
        for number, each in enumerate(given):
            entries.append(_entry(table, each, where_is.get((table, number), {"": 1}), name))
    if len(entries) > ENTRIES_MAX:
        line = entries[ENTRIES_MAX].line
        raise SettingError(f"{name}, line {line}: more than {ENTRIES_MAX:,} entries")
    return Suppressions(tuple(sorted(entries, key=lambda e: e.line)), name)


def _places(text: str) -> dict[tuple[str, int], dict[str, int]]:
    """Return, for each entry, the line of its head (under an empty name) and of its fields."""
    found: dict[tuple[str, int], dict[str, int]] = {}
    counts: dict[str, int] = {}
    inside: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if head := _HEAD.match(line):
            which = (head[1], counts.get(head[1], 0))
            counts[head[1]] = which[1] + 1
            inside = found.setdefault(which, {"": number})
        elif field := _ASSIGNED.match(line):
            inside.setdefault(field[1], number)
    return found


def _line_of(text: str, name: str) -> int:
    """Return the first line that speaks of a name."""
    for number, line in enumerate(text.splitlines(), 1):
        if name in line:
            return number
    return 1


def _entry(table: str, given: Any, places: dict[str, int], name: str) -> Entry:
    """Check one entry."""

    def wrong(field: str, why: str) -> SettingError:
        return SettingError(f"{name}, line {places.get(field, places[''])}: {why}")

    if not isinstance(given, dict):
        raise wrong("", f"want a table [[{table}]]")
    for field, value in given.items():
        if field not in _TABLES[table]:
            fields = _TABLES[table]
            cure = meant(field, fields, f"want {', '.join(fields)}")
            raise wrong(field, f"unknown field {plain(field)!r}; {cure}")
        if field != "until" and not isinstance(value, str):
            raise wrong(field, f"{field}: want a text in quotes")
    if not given.get("key"):
        raise wrong("", "key is missing: an address, a network such as 10.0.0.0/8, or a name")
    rule = given.get("rule", "*")
    if not any(fnmatchcase(known, rule) for known in RULES):
        cure = meant(rule, RULES, f"want one of {', '.join(RULES)}")
        raise wrong("rule", f"no rule is called {plain(rule)!r}; {cure}")
    until = given.get("until")
    if until is not None and (not isinstance(until, datetime) or until.tzinfo is None):
        raise wrong("until", "until: want a time with its zone, such as 2027-01-31T00:00:00Z")
    until_ns = None
    if until is not None:
        past = until.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        until_ns = (past.days * 86_400 + past.seconds) * 1_000_000_000 + past.microseconds * 1_000
    key, network = given["key"], None
    if "/" in key or not _ANY.search(key):
        try:
            network = ipaddress.ip_network(key, strict=False)
        except ValueError as error:
            if re.fullmatch(r"[0-9A-Fa-f.:]+/\d+", key):
                raise wrong("key", f"key: {plain(str(error))}") from None
    return Entry(places[""], key, network, rule, until_ns)
