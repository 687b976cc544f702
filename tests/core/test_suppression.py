"""Suppressions: whom they are about, until when, and one line for whatever is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SettingError
from core.suppression import Suppressions, parse
from tests.core.test_docket import SECOND_NS, docket, sighting

NAME = "quiet.toml"


def covers(text: str, key: str, rule: str = "flood", second: int = 0) -> bool:
    """Tell whether a file suppresses a sighting."""
    return parse(text.encode(), NAME).covers(sighting(second, key, rule))


@pytest.mark.parametrize(
    ("pattern", "key", "is_about"),
    [
        ("10.0.0.0/8", "10.200.3.4", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.7/8", "10.0.0.1", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.77", False),
        ("2001:DB8::/32", "2001:db8:1::5", True),
        ("2001:db8::/32", "10.0.0.1", False),
        ("10.0.0.0/8", "pump-7", False),
        ("pump-?", "pump-7", True),
        ("pump-?", "pump-77", False),
        ("pump-*", "pump-77", True),
        ("Pump-*", "pump-77", False),
        ("pump/7", "pump/7", True),
        ("02:00:00:00:00:01", "02:00:00:00:00:01", True),
        ("*", "whatever", True),
    ],
)
def test_keys_are_addresses_networks_or_patterns(pattern: str, key: str, is_about: bool) -> None:
    """An address stands for itself, a network for what is in it, and a name for what is like it."""
    assert covers(f'[[suppress]]\nkey = "{pattern}"\n', key) is is_about
    assert covers(f'[[allow]]\nkey = "{pattern}"\n', key) is is_about


def test_a_rule_bounds_it_and_so_does_the_time() -> None:
    """Time is that of packets; from the second named on it suppresses nothing, and says so once."""
    text = '[[suppress]]\nkey = "*"\nrule = "scan_*"\nuntil = 1970-01-01T00:01:40Z\n'
    assert covers(text, "a", "scan_vertical", 99)
    assert not covers(text, "a", "scan_vertical", 100)
    assert not covers(text, "a", "flood", 99)
    known = parse(text.encode(), NAME)
    assert known.expired(99 * SECOND_NS) == ""
    said = "quiet.toml, line 1: expired by packet time; this one suppresses nothing any more"
    assert known.expired(100 * SECOND_NS) == said
    assert known.expired(200 * SECOND_NS) == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n[[suppress]]\n", "line 2: key is missing"),
        ('[[suppress]]\nkey = "a"\n\n[[suppress]]\nkey = ""\n', "line 4: key is missing"),
        ('[[suppress]]\nkey = "a"\nkind = "flood"\n', "line 3: unknown field 'kind'"),
        ('[[suppress]]\nkey = "a"\nrul = "flood"\n', "line 3: .*did you mean rule"),
        ('[[allow]]\nkey = "a"\nrule = "flood"\n', "line 3: unknown field 'rule'"),
        ('[[suppress]]\nkey = "a"\nrule = "flod"\n', "line 3: .*did you mean flood"),
        ("[[suppress]]\nkey = 7\n", "line 2: key: want a text in quotes"),
        ('[[suppress]]\nkey = "10.0.0.0/33"\n', "line 2: key: "),
        ('[[suppress]]\nkey = "a"\nuntil = 2027-01-01\n', "line 3: until: want a time"),
        ('[[suppress]]\nkey = "a"\nuntil = 2027-01-01T00:00:00\n', "line 3: until: want a time"),
        ('[[suppress]]\nkey = "a"\n[[muted]]\nkey = "b"\n', "line 3: unknown table"),
        ('key = "a"\n', "line 1: unknown table"),
        ("suppress = [1]\n", "line 1: want a table"),
        ('[[suppress]]\nkey = "a\n', "line 2: "),
        ('[[suppress]]\nkey = "\xff"'.encode("latin-1"), "line 2: not UTF-8"),
    ],
)
def test_a_bad_entry_is_one_line_with_its_number(text: str | bytes, line: str) -> None:
    """It names the file, the line, and what is wanted there."""
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(SettingError, match=f"^{NAME}, {line}") as caught:
        parse(raw, NAME)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_a_file_or_one_line(raw: bytes) -> None:
    """Whatever a file holds, it is read or refused."""
    said = ""
    known: tuple[Suppressions, ...] = ()
    try:
        known = (parse(b"[[suppress]]\n" + raw, NAME),)
    except SettingError as error:
        said = str(error)
    assert said.startswith(NAME) if said else len(known[0]) >= 1
    assert "\n" not in said


def test_what_is_muted_is_followed_counted_and_told_when_it_is_not_any_more() -> None:
    """Not lost: it is one finding, told from when it is no longer suppressed."""
    cases = docket()
    quiet = [sighting(second) for second in range(3)]
    assert cases.take(quiet, 0, lambda _: True) == []
    assert (cases.muted, len(cases)) == (1, 1)
    told = cases.take([sighting(3)], 0)
    assert [(each.activity, each.sightings, each.number) for each in told] == [(1, 4, 0)]
    assert cases.take([sighting(70)], 0) != []
    muted = cases.take([sighting(140)], 300 * SECOND_NS, lambda _: True)
    assert {each.activity for each in muted} == {3}


def test_a_muted_case_that_ends_is_not_told() -> None:
    """What was never told as opened is not told as closed."""
    cases = docket()
    cases.take([sighting(0)], 0, lambda _: True)
    assert cases.take([], 300 * SECOND_NS) == []
    assert len(cases) == 0
