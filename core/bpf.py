"""Classic BPF: the machine that runs capture filters, walked over a whole batch.

Laws:

1. A program keeps exactly the packets that libpcap's `bpf_filter` keeps: a load outside the
   captured bytes, or a division by zero, rejects the packet; arithmetic is unsigned, 32 bits wide.
2. Only a program that `validate` accepts is run. It then ends: jumps lead forward, inside it.
3. A scratch word that was never stored reads as 0 (libpcap leaves it undefined).

Not here: compiling an expression (`connectors.bpf`), and the ancillary loads of Linux, which ask
for what only a live capture knows; they lie outside every packet and so reject it.

Source: S. McCanne and V. Jacobson, "The BSD Packet Filter", 1993, §3; Linux
Documentation/networking/filter.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A2_i8, A_i4, A_i8, A_u1, be16, be32, i8, kernel, none

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROGRAM_LEN_MAX = 65_536
"""Instructions of a program at most; Linux takes 4,096, libpcap has no limit for files."""
MEM_WORDS = 16

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_W, _H = 0x00, 0x08
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_ADD, _SUB, _MUL, _DIV, _OR, _AND = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
_LSH, _RSH, _NEG, _MOD, _XOR = 0x60, 0x70, 0x80, 0x90, 0xA0
_JA, _JEQ, _JGT, _JGE, _JSET = 0x00, 0x10, 0x20, 0x30, 0x40
_X, _A, _TXA = 0x08, 0x10, 0x80
_WORD = 0xFFFF_FFFF

_LOADS = {_LD | mode | size for mode in (_ABS, _IND) for size in (0x00, 0x08, 0x10)}
_MEM_CODES = {_LD | _MEM, _LDX | _MEM, _ST, _STX}
_ALU_CODES = {_ALU | op | src for op in range(0x00, 0xB0, 0x10) for src in (0, _X) if op != _NEG}
_JUMPS = {_JMP | op | src for op in (_JEQ, _JGT, _JGE, _JSET) for src in (0, _X)}
_RETURNS = {_RET, _RET | _A}
_CODES = (
    _LOADS
    | _MEM_CODES
    | _ALU_CODES
    | _JUMPS
    | _RETURNS
    | {_LD | _IMM, _LD | _LEN, _LDX | _IMM, _LDX | _LEN, _LDX | _MSH | 0x10}
    | {_ALU | _NEG, _JMP | _JA, _MISC, _MISC | _TXA}
)


def validate(program: NDArray[np.int64]) -> bool:
    """Tell whether a program may be run.

    Args:
        program: `(m, 4) int64`; code, jump if true, jump if false, operand of each instruction.

    Returns:
        True when it has 1 … `PROGRAM_LEN_MAX` instructions, every one is known and has an operand
        of 32 bits, jumps lead forward to an instruction, scratch words exist, no constant divisor
        is 0, and the last instruction returns.

    Source: `bpf_validate` of libpcap says the same, but lets unconditional jumps lead back.
    """
    if program.ndim != 2 or program.shape[1] != 4 or program.dtype != np.int64:
        return False
    size = program.shape[0]
    if not 1 <= size <= PROGRAM_LEN_MAX:
        return False
    for at, (code, jt, jf, k) in enumerate(program.tolist()):
        if code not in _CODES or not 0 <= k <= _WORD:
            return False
        if code in _JUMPS and not (0 <= jt < size - at - 1 and 0 <= jf < size - at - 1):
            return False
        if code == _JMP | _JA and k >= size - at - 1:
            return False
        if code in _MEM_CODES and k >= MEM_WORDS:
            return False
        if code in (_ALU | _DIV, _ALU | _MOD) and k == 0:
            return False
    return int(program[-1, 0]) in _RETURNS


@kernel(i8(i8, i8, i8))
def _compute(op: Any, a: Any, b: Any) -> Any:
    """Return `a op b` in 32 bits, or -1 for a division by zero."""
    if op == _ADD:
        a = a + b
    elif op == _SUB:
        a = a - b
    elif op == _MUL:
        # 64 bits may wrap; the lower 32, which are kept, do not notice.
        a = a * b
    elif op in (_DIV, _MOD):
        if b == 0:
            return -1
        a = a // b if op == _DIV else a % b
    elif op == _OR:
        a = a | b
    elif op == _AND:
        a = a & b
    elif op == _XOR:
        a = a ^ b
    elif op == _NEG:
        a = -a
    elif op == _LSH:
        a = a << b if b < 32 else 0
    elif op == _RSH:
        a = a >> b if b < 32 else 0
    return a & _WORD


@kernel(i8(i8, i8, i8))
def _test(op: Any, a: Any, b: Any) -> Any:
    """Return 1 when a conditional jump is taken."""
    if op == _JEQ:
        return 1 if a == b else 0
    if op == _JGT:
        return 1 if a > b else 0
    if op == _JGE:
        return 1 if a >= b else 0
    return 1 if a & b else 0


@kernel(i8(A_u1, i8, i8, i8, i8))
def _fetch(arena: Any, at: Any, size: Any, offset: Any, width: Any) -> Any:
    """Read a word, half-word or byte of the packet; -1 when it is not all captured."""
    if width == _W:
        return be32(arena, at + offset) if offset + 4 <= size else -1
    if width == _H:
        return be16(arena, at + offset) if offset + 2 <= size else -1
    return int(arena[at + offset]) if offset < size else -1


@kernel(i8(A2_i8, A_u1, i8, i8, i8, A_i8))
def run_program(program: Any, arena: Any, at: Any, size: Any, wire: Any, mem: Any) -> Any:
    """Run a program on one packet; return what it returns, 0 for a rejection.

    Args:
        program: `(m, 4) int64`; one that `validate` accepts.
        arena: `uint8`; holds the packet.
        at: Where it begins.
        size: Its captured bytes, all of them in the arena.
        wire: Its bytes on the wire.
        mem: `(16,) int64`; scratch words, all 0.
    """
    a, x, pc = 0, 0, 0
    while pc < program.shape[0]:
        code, k = int(program[pc, 0]), int(program[pc, 3])
        kind, op, mode = code & 0x07, code & 0xF0, code & 0xE0
        operand = x if code & _X else k
        pc += 1
        if kind == _JMP:
            if op == _JA:
                pc += k
            elif _test(op, a, operand):
                pc += int(program[pc - 1, 1])
            else:
                pc += int(program[pc - 1, 2])
        elif kind == _RET:
            return a if code & _A else k
        elif kind == _ALU:
            a = _compute(op, a, operand)
            if a < 0:
                return 0
        elif kind == _ST:
            mem[k & 15] = a
        elif kind == _STX:
            mem[k & 15] = x
        elif kind == _MISC:
            if code & _TXA:
                a = x
            else:
                x = a
        else:
            value = k
            if mode == _ABS:
                value = _fetch(arena, at, size, k, code & 0x18)
            elif mode == _IND:
                value = _fetch(arena, at, size, x + k, code & 0x18)
            elif mode == _MEM:
                value = int(mem[k & 15])
            elif mode == _LEN:
                value = wire
            elif mode == _MSH:
                value = _fetch(arena, at, size, k, 0x10)
                value = (value & 15) << 2 if value >= 0 else -1
            if value < 0:
                return 0
            if kind == _LD:
                a = value
            else:
                x = value
    return 0


@kernel(none(A2_i8, A_u1, A_i8, A_i4, A_i4, A_u1), allocates=True)
def select(program: Any, arena: Any, start: Any, caplen: Any, wirelen: Any, keep: Any) -> None:
    """Run a filter over packets.

    Args:
        program: `(m, 4) int64`; one that `validate` accepts.
        arena: `uint8`; holds the packets.
        start: `(n,) int64`; where a packet begins.
        caplen: `(n,) int32`; its captured bytes. A packet outside the arena is rejected.
        wirelen: `(n,) int32`; its bytes on the wire, which is what `len` asks for.
        keep: `(n,) uint8`; set to 1 where the program accepts, else to 0.
    """
    mem = np.zeros(MEM_WORDS, np.int64)
    for i in range(start.size):
        at, size = int(start[i]), int(caplen[i])
        keep[i] = 0
        if at < 0 or size < 0 or size > arena.size - at:
            continue
        mem[:] = 0
        found = run_program(program, arena, at, size, int(wirelen[i]) & _WORD, mem)
        keep[i] = 1 if found != 0 else 0
