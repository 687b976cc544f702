"""The BPF machine: programs by hand, programs of chance against Linux's own machine, and bounds."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.bpf import MEM_WORDS, PROGRAM_LEN_MAX, select, validate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Instruction = tuple[int, int, int, int]

ROOT = Path(__file__).resolve().parents[2]

# Codes as <linux/bpf_common.h> composes them; named here as the assembler of the kernel names them.
LD_W, LD_H, LD_B, LDI_W, LDI_H, LDI_B = 0x20, 0x28, 0x30, 0x40, 0x48, 0x50
LD_IMM, LD_MEM, LD_LEN, LDX_IMM, LDX_MEM, LDX_LEN, LDX_MSH = (
    0x00,
    0x60,
    0x80,
    0x01,
    0x61,
    0x81,
    0xB1,
)
ST, STX, TAX, TXA, NEG = 0x02, 0x03, 0x07, 0x87, 0x84
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
RET_K, RET_A = 0x06, 0x16
X = 0x08
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, MOD, XOR = (
    0x04 | op << 4 for op in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)
)


def build(instructions: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Lay instructions out as a program; short ones have jumps of 0."""
    rows = [(i[0], 0, 0, i[1]) if len(i) == 2 else tuple(i) for i in instructions]
    return np.array(rows, np.int64).reshape(-1, 4)


def keeps(program: NDArray[np.int64], data: bytes, wirelen: int | None = None) -> bool:
    """Run a program on one packet that has other bytes round it."""
    arena = np.frombuffer(bytearray(b"\xff" * 9 + data + b"\xff" * 9), np.uint8)
    keep = np.full(1, 7, np.uint8)
    caplen = np.array([len(data)], np.int32)
    wire = caplen if wirelen is None else np.array([wirelen], np.int32)
    select(program, arena, np.array([9], np.int64), caplen, wire, keep)
    assert keep[0] in (0, 1)
    return bool(keep[0])


def computes(*instructions: Sequence[int], data: bytes = b"", want: int) -> bool:
    """Tell whether a program ends with `want` in the accumulator."""
    program = build([*instructions, (JEQ, 0, 1, want), (RET_K, 1), (RET_K, 0)])
    assert validate(program)
    return keeps(program, data)


DATA = bytes.fromhex("45 80ffee 01020304")


@pytest.mark.parametrize(
    ("load", "want"),
    [
        ([(LD_W, 4)], 0x01020304),
        ([(LD_H, 1)], 0x80FF),
        ([(LD_B, 3)], 0xEE),
        ([(LDX_IMM, 2), (LDI_W, 2)], 0x01020304),
        ([(LDX_IMM, 2), (LDI_H, 0)], 0xFFEE),
        ([(LDX_IMM, 2), (LDI_B, 5)], 0x04),
        ([(LDX_MSH, 0), (TXA, 0)], 20),
        ([(LD_LEN, 0)], 8),
        ([(LDX_LEN, 0), (TXA, 0)], 8),
        ([(LD_IMM, 7), (ST, 15), (LD_IMM, 0), (LD_MEM, 15)], 7),
        ([(LDX_IMM, 9), (STX, 0), (LDX_IMM, 0), (LDX_MEM, 0), (TXA, 0)], 9),
        ([(LD_IMM, 5), (TAX, 0), (LD_IMM, 0), (TXA, 0)], 5),
        ([(LD_MEM, 3)], 0),
    ],
)
def test_loads(load: list[tuple[int, int]], want: int) -> None:
    """Each addressing mode loads what it says, big-endian and unsigned."""
    assert computes(*load, data=DATA, want=want)


@pytest.mark.parametrize(
    ("op", "a", "b", "want"),
    [
        (ADD, 0xFFFFFFFF, 2, 1),
        (SUB, 1, 2, 0xFFFFFFFF),
        (MUL, 0xFFFFFFFF, 0xFFFFFFFF, 1),
        (DIV, 0xFFFFFFFE, 0xFFFFFFFF, 0),
        (DIV, 0xFFFFFFFF, 2, 0x7FFFFFFF),
        (MOD, 0xFFFFFFFF, 10, 5),
        (OR, 0xF0, 0x0F, 0xFF),
        (AND, 0xFF, 0x3C, 0x3C),
        (XOR, 0xFF, 0x3C, 0xC3),
        (LSH, 0xFFFFFFFF, 31, 0x80000000),
        (LSH, 1, 32, 0),
        (RSH, 0x80000000, 31, 1),
        (RSH, 0xFFFFFFFF, 0xFFFFFFFF, 0),
    ],
)
def test_arithmetic_is_unsigned_and_32_bits_wide(op: int, a: int, b: int, want: int) -> None:
    """Every operation wraps at 32 bits, with a constant and with the index register."""
    assert computes((LD_IMM, a), (op, b), want=want)
    assert computes((LD_IMM, a), (LDX_IMM, b), (op | X, 0), want=want)
    assert computes((LD_IMM, 5), (NEG, 0), want=0xFFFFFFFB)


@pytest.mark.parametrize(
    ("test", "a", "taken"),
    [
        (JEQ, 7, [7]),
        (JGT, 7, [8, 0xFFFFFFFF]),
        (JGE, 7, [7, 0x80000000]),
        (JSET, 6, [2, 4, 0xFFFFFFFF]),
    ],
)
def test_jumps_compare_unsigned(test: int, a: int, taken: list[int]) -> None:
    """A conditional jump goes to one side or the other, by a constant or by the register."""
    for value in {0, 1, 7, 8, 0x80000000, 0xFFFFFFFF, *taken}:
        ends = [(JA, 0, 0, 1), (RET_K, 9), (RET_K, 0)]
        by_k = build([(LD_IMM, value), (test, 1, 0, a), *ends])
        by_x = build([(LD_IMM, value), (LDX_IMM, a), (test | X, 1, 0, 0), *ends])
        want = {JEQ: value == a, JGT: value > a, JGE: value >= a, JSET: value & a != 0}[test]
        assert keeps(by_k, b"") == keeps(by_x, b"") == want
        assert not (value in taken and not want)


def test_a_load_outside_the_packet_rejects_it() -> None:
    """One byte too far rejects, and so do the largest offsets there are."""
    data = bytes(8)
    inside = [(LD_W, 4), (LD_H, 6), (LD_B, 7), (LDX_MSH, 7)]
    outside = [(LD_W, 5), (LD_H, 7), (LD_B, 8), (LDX_MSH, 8), (LD_W, 0xFFFFFFFF), (LD_B, 2**31)]
    for load in inside:
        assert keeps(build([load, (RET_K, 1)]), data)
    for load in outside:
        assert not keeps(build([load, (RET_K, 1)]), data)
    for x in (8, 0xFFFFFFFF, 0x80000000):
        assert not keeps(build([(LDX_IMM, x), (LDI_B, 0xFFFFFFFF), (RET_K, 1)]), data)
        assert not keeps(build([(LDX_IMM, x), (LDI_W, 1), (RET_K, 1)]), data)


def test_what_a_program_returns() -> None:
    """Anything but 0 accepts, from a constant or the accumulator; division by zero rejects."""
    assert keeps(build([(RET_K, 0x80000000)]), b"")
    assert not keeps(build([(RET_K, 0)]), b"")
    assert not keeps(build([(RET_A, 0)]), b"")
    assert keeps(build([(LD_IMM, 1), (RET_A, 0)]), b"")
    for op in (DIV, MOD):
        assert not keeps(build([(LD_IMM, 1), (op | X, 0), (RET_K, 1)]), b"")


def test_len_is_the_length_on_the_wire() -> None:
    """`len` asks for the bytes on the wire, not for those the snap length left."""
    program = build([(LD_LEN, 0), (JEQ, 0, 1, 1500), (RET_K, 1), (RET_K, 0)])
    assert keeps(program, bytes(60), wirelen=1500)
    assert not keeps(program, bytes(60))


def test_scratch_words_do_not_outlive_a_packet() -> None:
    """What one packet stored, the next does not read."""
    stores = build([(LD_MEM, 3), (JEQ, 0, 3, 0), (LD_IMM, 1), (ST, 3), (RET_K, 1), (RET_K, 0)])
    keep, start = np.zeros(3, np.uint8), np.zeros(3, np.int64)
    lengths = np.full(3, 4, np.int32)
    select(stores, np.zeros(4, np.uint8), start, lengths, lengths, keep)
    assert keep.tolist() == [1, 1, 1]


def test_packets_outside_the_arena_are_rejected() -> None:
    """Offsets that lead out of the arena are never followed."""
    start = np.array([-1, 0, 5, 2**62, 0], np.int64)
    lengths = np.array([4, 9, 4, 4, -4], np.int32)
    keep = np.ones(5, np.uint8)
    select(build([(RET_K, 1)]), np.zeros(8, np.uint8), start, lengths, lengths, keep)
    assert not keep.any()


@pytest.mark.parametrize(
    "program",
    [
        [],
        [(LD_IMM, 1)],
        [(JA, 1), (RET_K, 1)],
        [(JA, 0xFFFFFFFF), (RET_K, 1)],
        [(JEQ, 1, 0, 0), (RET_K, 1)],
        [(JEQ, 0, 1, 0), (RET_K, 1)],
        [(JEQ, -1, 0, 0), (RET_K, 1)],
        [(ST, MEM_WORDS), (RET_K, 1)],
        [(LDX_MEM, MEM_WORDS), (RET_K, 1)],
        [(DIV, 0), (RET_K, 1)],
        [(MOD, 0), (RET_K, 1)],
        [(0xFF, 0), (RET_K, 1)],
        [(0x106, 0)],
        [(LD_IMM, -1), (RET_K, 1)],
        [(RET_K, 2**32)],
        [(RET_K, 1)] * (PROGRAM_LEN_MAX + 1),
    ],
)
def test_programs_that_may_not_run(program: list[tuple[int, ...]]) -> None:
    """Jumps out of the program, unknown codes, missing words and absent returns are refused."""
    assert not validate(build(program))


def test_programs_of_another_shape_may_not_run() -> None:
    """A program is a table of four columns of `int64`."""
    good = build([(RET_K, 1)])
    assert validate(good)
    assert not validate(good[:, :3].copy())
    assert not validate(good[0])
    assert not validate(good.astype(np.int32))


WORD = st.integers(0, 0xFFFFFFFF)
SMALL = st.integers(0, 40)
OPERATIONS = [ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, MOD, XOR]


@st.composite
def steps(draw: st.DrawFn, left: int) -> list[Instruction]:
    """Draw what stands in one place of a program that has `left` instructions behind it."""
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return [(draw(st.sampled_from([LD_W, LD_H, LD_B, LDX_MSH])), 0, 0, draw(SMALL))]
    if kind == 1:
        # Linux reads negative offsets as ancillary data, libpcap as too large: these stay small.
        code = draw(st.sampled_from([LDI_W, LDI_H, LDI_B]))
        return [(LDX_IMM, 0, 0, draw(SMALL)), (code, 0, 0, draw(SMALL))]
    if kind == 2:
        code = draw(st.sampled_from([LD_IMM, LDX_IMM, LD_LEN, LDX_LEN, TAX, TXA, NEG]))
        return [(code, 0, 0, draw(WORD) if code in (LD_IMM, LDX_IMM) else 0)]
    if kind == 3:
        return [(draw(st.sampled_from([ST, STX, LD_MEM, LDX_MEM])), 0, 0, draw(st.integers(0, 15)))]
    if kind == 4:
        op = draw(st.sampled_from(OPERATIONS))
        if op in (LSH, RSH):
            return [(op, 0, 0, draw(st.integers(0, 31)))]
        return [(op | draw(st.sampled_from([0, X])), 0, 0, draw(WORD | st.just(2)) or 1)]
    if kind == 5:
        test = draw(st.sampled_from([JEQ, JGT, JGE, JSET])) | draw(st.sampled_from([0, X]))
        at_most = st.integers(0, min(left, 6))
        return [(test, draw(at_most), draw(at_most), draw(WORD | SMALL))]
    return [(JA, 0, 0, draw(st.integers(0, min(left, 3))))]


@st.composite
def programs(draw: st.DrawFn) -> list[Instruction]:
    """Draw a program that may run, from its end to its start, so that jumps know what follows."""
    program: list[Instruction] = [(RET_K, 0, 0, draw(st.integers(0, 1)))]
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.integers(0, 9)) == 0:
            end = draw(st.sampled_from([(RET_A, 0, 0, 0), (RET_K, 0, 0, 0xFFFF)]))
            program = [end, *program]
        program = [*draw(steps(len(program) - 1)), *program]
    # Linux refuses to read a scratch word that no path has stored.
    return [*((ST, 0, 0, word) for word in range(MEM_WORDS)), *program]


@pytest.fixture(scope="module")
def linux() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a pair of sockets whose second end filters; skip where the kernel takes no filter."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    with sender, receiver:
        try:
            attach(receiver, [(RET_K, 0, 0, 1)])
        except OSError as error:
            pytest.skip(f"this kernel attaches no socket filter: {error}")
        yield sender, receiver


def attach(receiver: socket.socket, program: Sequence[Instruction]) -> None:
    """Let Linux run a program on what a socket receives (SO_ATTACH_FILTER)."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    kept = ctypes.create_string_buffer(code)
    table = struct.pack("HL", len(program), ctypes.addressof(kept))
    receiver.setsockopt(socket.SOL_SOCKET, 26, table)


@settings(max_examples=300)
@given(program=programs(), data=st.binary(min_size=1, max_size=48))
def test_linux_says_the_same(
    linux: tuple[socket.socket, socket.socket], program: list[Instruction], data: bytes
) -> None:
    """Programs of chance keep and reject the same packets as Linux's own machine."""
    table = build(program)
    assert validate(table)
    sender, receiver = linux
    attach(receiver, program)
    sender.send(data)
    try:
        received = len(receiver.recv(100)) > 0
    except BlockingIOError:
        received = False
    assert keeps(table, data) == received


@given(rows=st.lists(st.tuples(st.integers(0, 255), SMALL, SMALL, WORD | SMALL), max_size=9))
def test_any_program_that_validates_ends(rows: list[Instruction]) -> None:
    """Whatever `validate` lets through runs to an answer."""
    program = build([*rows, (RET_K, 0, 0, 1)])
    if validate(program):
        assert keeps(program, DATA) in (True, False)


PLAIN = """
import sys, numpy as np
from core.bpf import select
with np.load(sys.argv[1]) as kept:
    arena, start, length = kept["arena"], kept["start"], kept["length"]
    programs = [kept[name] for name in kept.files if name.startswith("program")]
keep = np.zeros((len(programs), start.size), np.uint8)
for program, row in zip(programs, keep, strict=True):
    select(program, arena, start, length, length, row)
np.save(sys.argv[2], keep)
"""


def test_plain_python_gives_the_same_answer(tmp_path: Path) -> None:
    """With `NUMBA_DISABLE_JIT=1` every packet is kept or rejected as when compiled."""
    rng = np.random.default_rng(3)
    arena = rng.integers(0, 256, 4096, np.uint8)
    start = rng.integers(0, 4000, 200).astype(np.int64)
    length = rng.integers(0, 96, 200).astype(np.int32)
    wrapping = [(LD_W, 0), (TAX, 0), (MUL | X, 0), (ADD, 0xFFFFFFFF), (SUB | X, 0), (NEG, 0)]
    tables = [
        build([*wrapping, (LSH, 7), (XOR | X, 0), (JGT, 0, 1, 2**31), (RET_K, 1), (RET_K, 0)]),
        build([(LDX_MSH, 3), (LDI_B, 2), (JSET, 0, 1, 3), (RET_K, 0), (RET_A, 0)]),
        build([(LD_H, 8), (STX, 4), (ST, 5), (LDX_MEM, 5), (MOD | X, 0), (DIV, 3), (RET_A, 0)]),
        build([(LD_LEN, 0), (JGE, 0, 1, 40), (LD_B, 39), (RET_A, 0)]),
    ]
    given_path, got_path = tmp_path / "given.npz", tmp_path / "got.npy"
    named: dict[str, Any] = {f"program{i}": table for i, table in enumerate(tables)}
    named |= {"arena": arena, "start": start, "length": length}
    np.savez(given_path, **named)
    environ = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", PLAIN, str(given_path), str(got_path)]
    subprocess.run(command, env=environ, check=True, cwd=ROOT)
    for table, plain in zip(tables, np.load(got_path), strict=True):
        keep = np.zeros(start.size, np.uint8)
        select(table, arena, start, length, length, keep)
        assert keep.tolist() == plain.tolist()
