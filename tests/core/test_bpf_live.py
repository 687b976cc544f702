"""Filters for the kernel: accepted packets cut, loads moved where a tag was taken off.

That the kernel keeps what a file would is shown on real interfaces in
`tests/connectors/test_packet_ring.py`.
"""

from __future__ import annotations

import numpy as np

from core.bpf_live import accept_all, for_kernel

# libpcap's for `vlan 5 and ip`, shortened, and one that cannot all be moved.
VLAN = [(0x28, 0, 0, 12), (0x15, 0, 4, 0x8100), (0x28, 0, 0, 14), (0x15, 0, 2, 5),
        (0x28, 0, 0, 16), (0x06, 0, 0, 262_144), (0x06, 0, 0, 0)]  # fmt: skip
MIXED = [(0x20, 0, 0, 10), (0x30, 0, 0, 15), (0xB1, 0, 0, 14), (0xB1, 0, 0, 18), (0x48, 0, 0, 20),
         (0x48, 0, 0, 2), (0x80, 0, 0, 0), (0x30, 0, 0, 11), (0x02, 0, 0, 3), (0x60, 0, 0, 3),
         (0x06, 0, 0, 0)]  # fmt: skip
ACCEPTS = (0x06, 0, 0, 96)


def rows(program: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(each) for each in program.tolist()]


def test_without_tags_only_the_length_changes() -> None:
    """What accepts keeps as much as asked, what rejects stays, and nothing else is touched."""
    assert rows(for_kernel(np.array(VLAN), 96, tags=False)) == [*VLAN[:5], ACCEPTS, VLAN[6]]
    assert rows(accept_all(7)) == [(6, 0, 0, 7)]


def test_tagged_packets_have_a_program_of_their_own() -> None:
    """Type and tag are asked of the kernel, and what lies behind them four bytes earlier."""
    got = rows(for_kernel(np.array(VLAN), 96, tags=True))
    assert got[:3] == [(0x20, 0, 0, 0xFFFF_F030), (0x15, 1, 0, 0), (0x05, 0, 0, 7)]
    assert got[3:10] == [*VLAN[:5], ACCEPTS, VLAN[6]]
    assert got[10:] == [
        (0x00, 0, 0, 0), (0x20, 0, 0, 0xFFFF_F03C), VLAN[1], (0x20, 0, 0, 0xFFFF_F02C), VLAN[3],
        (0x28, 0, 0, 12), ACCEPTS, VLAN[6],
    ]  # fmt: skip


def test_what_cannot_be_moved_accepts() -> None:
    """Parts of a tag, lengths and offsets nobody knows are left to be judged again."""
    got = rows(for_kernel(np.array(MIXED), 96, tags=True))[4 + len(MIXED) :]
    assert got == [
        ACCEPTS, ACCEPTS, ACCEPTS, (0xB1, 0, 0, 14), (0x48, 0, 0, 16), ACCEPTS, ACCEPTS,
        (0x30, 0, 0, 11), MIXED[8], MIXED[9], MIXED[10],
    ]  # fmt: skip
