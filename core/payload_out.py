"""Datagrams of other formats than the device frame, as JSON.

    json    {"id","data","ts"}         `data` is the payload as it came
    syslog  {"id","data","ts"}         `data` is an object of what the message says
    raw     {"id","data_base64","ts"}  as CloudEvents has bytes that are no JSON

Laws: those of `core.records` and of `core.text_out`. A record that was read back is copied.

A message that is no UTF-8 is `message_base64`. A byte-order mark that says it is UTF-8 is taken
off, if it is (RFC 5424 §6.4).

Source: RFC 8259; CloudEvents 1.0, JSON format §3.1.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import syslog
from core.body import utf8_valid
from core.kernels import A_i4, A_i8, A_u1, A_u8, i8, kernel, none
from core.payloads import JSON, RAW, READER, RECORD, write_key
from core.text_out import (
    constant,
    write_base64,
    write_copy,
    write_decimal,
    write_escaped,
    write_literal,
)

RECORD_BYTES_MAX = 320
"""Beside the payload: names, numbers, and the sender's address."""
BYTES_PER_BYTE = 8
"""What a byte of the payload becomes at most: as one of the three of an element of structured data,
round which there are names, or as an escape in JSON, which may be copied and be in the key."""


_ID, _TS, _END = constant('{"id":"'), constant(',"ts":'), constant("}")
_VALUE, _BASE64, _QUOTE = constant('","data":'), constant('","data_base64":"'), constant('"')
_SYSLOG = constant('","data":{"rfc":')
_FACILITY, _SEVERITY = constant(',"facility":'), constant(',"severity":')
_TIME, _HOST, _APP = constant(',"time":'), constant(',"host":'), constant(',"app":')
_PROC, _MSGID, _NULL = constant(',"procid":'), constant(',"msgid":'), constant("null")
_DATA, _MESSAGE = constant(',"structured_data":'), constant(',"message":')
_MESSAGE_BASE64 = constant(',"message_base64":"')
_OPEN, _CLOSE, _COMMA = constant("["), constant("]"), constant(",")
_ELEMENT, _PARAMS, _ELEMENT_END = constant('{"id":"'), constant('","params":['), constant("]}")
_NAME, _IS, _PARAM_END = constant('{"name":"'), constant('","value":"'), constant('"}')
_BACKSLASH = 0x5C


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def _write_part(out: Any, at: Any, buf: Any, begin: Any, end: Any) -> Any:
    """Write a part of a message as a string, or `null`."""
    if begin < 0:
        return write_literal(out, at, _NULL)
    at = write_literal(out, at, _QUOTE)
    at = write_escaped(out, at, buf, begin, end - begin)
    return write_literal(out, at, _QUOTE)


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def _write_value(out: Any, at: Any, buf: Any, begin: Any, end: Any) -> Any:
    """Write a value of structured data without its escapes (RFC 5424 §6.3.3)."""
    run = begin
    i = begin
    while i < end:
        if buf[i] == _BACKSLASH and buf[i + 1] in (0x22, _BACKSLASH, 0x5D):
            at = write_escaped(out, at, buf, run, i - run)
            run = i + 1
            i += 1
        i += 1
    return write_escaped(out, at, buf, run, end - run)


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def _write_data(out: Any, at: Any, buf: Any, begin: Any, end: Any) -> Any:
    """Write sound structured data as a list, because its names may be there more than once."""
    at = write_literal(out, at, _OPEN)
    here = begin
    while here < end:
        if here > begin:
            at = write_literal(out, at, _COMMA)
        name = here + 1
        here = syslog.name_end(buf, name, end)
        at = write_literal(out, at, _ELEMENT)
        at = write_escaped(out, at, buf, name, here - name)
        at = write_literal(out, at, _PARAMS)
        first = True
        while buf[here] == 0x20:
            if not first:
                at = write_literal(out, at, _COMMA)
            first = False
            name = here + 1
            here = syslog.name_end(buf, name, end)
            at = write_literal(out, at, _NAME)
            at = write_escaped(out, at, buf, name, here - name)
            at = write_literal(out, at, _IS)
            value = here + 2
            here = syslog.value_end(buf, value, end)
            at = _write_value(out, at, buf, value, here)
            at = write_literal(out, at, _PARAM_END)
            here += 1
        at = write_literal(out, at, _ELEMENT_END)
        here += 1
    return write_literal(out, at, _CLOSE)


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def _write_message(out: Any, at: Any, buf: Any, begin: Any, end: Any) -> Any:
    """Write the message as text if it is text, or in base64."""
    if begin >= 0 and not utf8_valid(buf, begin, end - begin):
        at = write_literal(out, at, _MESSAGE_BASE64)
        at = write_base64(out, at, buf, begin, end - begin)
        return write_literal(out, at, _QUOTE)
    if (
        end - begin >= 3
        and buf[begin] == 0xEF
        and buf[begin + 1] == 0xBB
        and buf[begin + 2] == 0xBF
    ):
        begin += 3
    at = write_literal(out, at, _MESSAGE)
    return _write_part(out, at, buf, begin, end)


@kernel(i8(A_u1, i8, A_u1, A_i8))
def _write_syslog(out: Any, at: Any, buf: Any, field: Any) -> Any:
    """Write what a message says."""
    at = write_literal(out, at, _SYSLOG)
    at = write_decimal(out, at, field[syslog.RFC])
    at = write_literal(out, at, _FACILITY)
    at = write_decimal(out, at, field[syslog.PRIORITY] >> 3)
    at = write_literal(out, at, _SEVERITY)
    at = write_decimal(out, at, field[syslog.PRIORITY] & 7)
    at = write_literal(out, at, _TIME)
    at = _write_part(out, at, buf, field[syslog.TIME], field[syslog.TIME + 1])
    at = write_literal(out, at, _HOST)
    at = _write_part(out, at, buf, field[syslog.HOST], field[syslog.HOST + 1])
    at = write_literal(out, at, _APP)
    at = _write_part(out, at, buf, field[syslog.APP], field[syslog.APP + 1])
    at = write_literal(out, at, _PROC)
    at = _write_part(out, at, buf, field[syslog.PROC], field[syslog.PROC + 1])
    at = write_literal(out, at, _MSGID)
    at = _write_part(out, at, buf, field[syslog.MSGID], field[syslog.MSGID + 1])
    at = write_literal(out, at, _DATA)
    if field[syslog.DATA] < 0:
        at = write_literal(out, at, _NULL)
    else:
        at = _write_data(out, at, buf, field[syslog.DATA], field[syslog.DATA + 1])
    at = _write_message(out, at, buf, field[syslog.MESSAGE], field[syslog.MESSAGE + 1])
    return write_literal(out, at, _END)


@kernel(none(READER, A_u1, A_i8, A_i4, A_u8, A_u8, A_i8, A_u1, A_i8, A_u1, A_i8), allocates=True)
def write_payloads(
    reader: Any, arena: Any, body: Any, body_len: Any, peer_hi: Any, peer_lo: Any, at_ns: Any,
    values: Any, value_end: Any, keys: Any, key_end: Any,
) -> None:  # fmt: skip
    """Write the record and the key of each frame."""
    kind = reader[0]
    scratch = np.zeros(reader[1].size + 3, np.uint8)
    fields = np.zeros(syslog.FIELDS, np.int64)
    at = 0
    key_at = 0
    for i in range(body.size):
        start, size = body[i], np.int64(body_len[i])
        key = key_at
        key_at = write_key(
            reader, arena, start, size, peer_hi[i], peer_lo[i], fields, scratch, keys, key
        )
        key_end[i] = key_at
        if kind == RECORD:
            at = write_copy(values, at, arena, start, size)
            value_end[i] = at
            continue
        at = write_literal(values, at, _ID)
        at = write_escaped(values, at, keys, key, key_at - key)
        if kind == JSON:
            at = write_literal(values, at, _VALUE)
            at = write_copy(values, at, arena, start, size)
        elif kind == RAW:
            at = write_literal(values, at, _BASE64)
            at = write_base64(values, at, arena, start, size)
            at = write_literal(values, at, _QUOTE)
        else:
            at = _write_syslog(values, at, arena, fields)
        at = write_literal(values, at, _TS)
        at = write_decimal(values, at, at_ns[i])
        at = write_literal(values, at, _END)
        value_end[i] = at
