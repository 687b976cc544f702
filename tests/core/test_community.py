"""Community ID: the specification's own results, and hashlib for everything else."""

from __future__ import annotations

import base64
import hashlib
import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.community import COMMUNITY_ID_BYTES, write_community_id
from tests.plain import rest_passes

Flow = tuple[bytes, bytes, int, int, int]
"""Source and destination address, protocol, ports or ICMP type and code."""

# One in each direction is enough: the messages that ask, and those that answer them.
ANSWERS = {
    1: {8: 0, 13: 14, 15: 16, 10: 9, 17: 18},
    58: {128: 129, 130: 131, 133: 134, 135: 136, 139: 140, 144: 145},
}

# Results published with the specification (its baseline, and the tests of its reference
# implementation): protocol, ends, ports or ICMP type and code, id with seed 0, id with seed 1.
PUBLISHED = """
6 128.232.110.120 66.35.250.204 34855 80 LQU9qZlK+B5F3KDmev6m5PMibrg= 3V71V58M3Ksw/yuFALMcW0LAHvc=
6 66.35.250.204 128.232.110.120 80 34855 LQU9qZlK+B5F3KDmev6m5PMibrg= 3V71V58M3Ksw/yuFALMcW0LAHvc=
6 10.0.0.1 10.0.0.2 10 11569 SXBGMX1lBOwhhoDrZynfROxnhnM= HmBRGR+fUyXF4t8WEtal7Y0gEAo=
6 1.2.3.4 5.6.7.8 1122 3344 wCb3OG7yAFWelaUydu0D+125CLM= -
6 2001:470:e5bf:dead:4957:2174:e82c:4887 2607:f8b0:400c:c03::1a 63943 25 \
/qFaeAR+gFe1KYjMzVDsMv+wgU4= eJYTW6AOzFLlSUoESovMjnu7rMw=
6 2607:f8b0:400c:c03::1a 2001:470:e5bf:dead:4957:2174:e82c:4887 25 63943 \
/qFaeAR+gFe1KYjMzVDsMv+wgU4= eJYTW6AOzFLlSUoESovMjnu7rMw=
17 192.168.1.52 8.8.8.8 54585 53 d/FP5EW3wiY1vCndhwleRRKHowQ= Q9We8WO3piVF8yEQBNJF4uiSVrI=
17 8.8.8.8 192.168.1.52 53 54585 d/FP5EW3wiY1vCndhwleRRKHowQ= Q9We8WO3piVF8yEQBNJF4uiSVrI=
132 192.168.170.8 192.168.170.56 7 7 MP2EtRCAUIZvTw6MxJHLV7N7JDs= 5w3ZRjeKBzqT3zsaEECDGjUbYeg=
132 192.168.170.8 192.168.170.56 7 80 jQgCxbku+pNGw8WPbEc/TS/uTpQ= Y1/0jQg6e+I3ZwZZ9LP65DNbTXU=
46 10.1.12.1 10.1.12.2 0 0 KHlLkgoJW7ifUTyTSgyVfkFHzKw= rYir8gphR31noO9iDRQmF/BteEI=
46 10.1.12.2 10.1.12.1 0 0 KHlLkgoJW7ifUTyTSgyVfkFHzKw= rYir8gphR31noO9iDRQmF/BteEI=
46 10.1.24.4 10.1.12.1 0 0 /nQI4Rh/TtY3mf0R2gJFBkVlgS4= BK3BVW3U2eemuwVQVN3zd/GULno=
1 192.168.0.89 192.168.0.1 8 0 X0snYXpgwiv9TZtqg64sgzUn6Dk= 03g6IloqVBdcZlPyX8r0hgoE7kA=
1 192.168.0.1 192.168.0.89 0 0 X0snYXpgwiv9TZtqg64sgzUn6Dk= 03g6IloqVBdcZlPyX8r0hgoE7kA=
1 192.168.0.1 192.168.0.89 0 20 X0snYXpgwiv9TZtqg64sgzUn6Dk= 03g6IloqVBdcZlPyX8r0hgoE7kA=
1 192.168.0.89 192.168.0.1 20 0 3o2RFccXzUgjl7zDpqmY7yJi8rI= lCXHHxavE1Vq3oX9NH5ladQg02o=
1 192.168.0.89 192.168.0.1 20 1 tz/fHIDUHs19NkixVVoOZywde+I= Ie3wmFyxiEyikbsbcO03d2nh+PM=
1 10.0.0.1 10.0.0.2 11 0 YHxtAirCG//0OzkcVAukqKQN9xM= XjUibYHaafLQ3pxQeiMI8g25q20=
58 fe80::200:86ff:fe05:80da fe80::260:97ff:fe07:69ea 135 0 \
dGHyGvjMfljg6Bppwm3bg0LO8TY= kHa1FhMYIT6Ym2Vm2AOtoOARDzY=
58 fe80::260:97ff:fe07:69ea fe80::200:86ff:fe05:80da 136 0 \
dGHyGvjMfljg6Bppwm3bg0LO8TY= kHa1FhMYIT6Ym2Vm2AOtoOARDzY=
58 fe80::260:97ff:fe07:69ea fe80::200:86ff:fe05:80da 135 0 \
zavyT/cezQr1fmImYCwYnMXbgck= 2hSqmsDZ2kdcY9kbiUzOEBic0iM=
58 3ffe:507:0:1:260:97ff:fe07:69ea 3ffe:507:0:1:200:86ff:fe05:80da 3 0 \
NdobDX8PQNJbAyfkWxhtL2Pqp5w= OlOWx9psIbBFi7lOCw/4MhlKR9M=
58 3ffe:507:0:1:200:86ff:fe05:80da 3ffe:507:0:1:260:97ff:fe07:69ea 3 0 \
/OGBt9BN1ofenrmSPWYicpij2Vc= Ij4ZxnC87/MXzhOjvH2vHu7LRmE=
58 3ffe:501:410:0:2c0:dfff:fe47:33e 3ffe:507:0:1:200:86ff:fe05:80da 1 4 \
hLZd0XGWojozrvxqE0dWB1iM6R0= W8MHwXpWzpoSTD+cGcaJr4u0ys8=
58 3ffe:507:0:1:200:86ff:fe05:80da 3ffe:501:0:1001::2 128 0 \
+TW+HtLHvV1xnGhV1lv7XoJrqQg= GfZxjAkDk2MkegpBYHV6tadtFXQ=
58 fe80::200:86ff:fe05:80da ff02::2 133 0 \
hO+sN4H+MG5MY/8hIrXPqc4ZQz0= L7Ka0ZMYu+J3bL4ulW2PrqyXNo8=
58 fe80::260:97ff:fe07:69ea ff02::1 134 0 \
pkvHqCL88/tg1k4cPigmZXUtL00= K/ee5UCqAMAQXDorP5nSa2CGLjc=
"""


def words(address: bytes) -> tuple[np.uint64, np.uint64]:
    """Return an address of 4 or 16 bytes as batches hold it."""
    wide = address if len(address) == 16 else b"\0" * 10 + b"\xff\xff" + address
    return np.uint64(int.from_bytes(wide[:8])), np.uint64(int.from_bytes(wide[8:]))


def community_id(seed: int, flow: Flow) -> str:
    """Return the id the kernel writes, after checking that it wrote nothing else."""
    src, dst, proto, sport, dport = flow
    out = np.full(COMMUNITY_ID_BYTES + 8, 0xEE, np.uint8)
    ends = (*words(src), *words(dst))
    end = write_community_id(out, 3, seed, *ends, np.int32(proto), np.int32(sport), np.int32(dport))
    assert end == 3 + COMMUNITY_ID_BYTES
    assert (out[:3] == 0xEE).all()
    assert (out[end:] == 0xEE).all()
    return out[3:end].tobytes().decode()


def expected_id(seed: int, flow: Flow) -> str:
    """Derive the id step by step as the specification words it."""
    src, dst, proto, sport, dport = flow
    one_way = False
    if proto in ANSWERS:
        both = {**ANSWERS[proto], **{answer: ask for ask, answer in ANSWERS[proto].items()}}
        one_way = sport not in both
        dport = both.get(sport, dport)
    ports = (sport, dport) if proto in (1, 6, 17, 58, 132) else (0, 0)
    ends = [(src, ports[0]), (dst, ports[1])]
    if not one_way:
        ends.sort()
    hashed = seed.to_bytes(2) + ends[0][0] + ends[1][0] + bytes([proto, 0])
    if proto in (1, 6, 17, 58, 132):
        hashed += ends[0][1].to_bytes(2) + ends[1][1].to_bytes(2)
    digest = hashlib.sha1(hashed, usedforsecurity=False).digest()
    return "1:" + base64.b64encode(digest).decode()


@pytest.mark.parametrize("line", PUBLISHED.replace("\\\n", "").strip().splitlines())
def test_published_results_come_back(line: str) -> None:
    """Every flow of the specification's baseline that is an IP packet, with two seeds."""
    proto, src, dst, sport, dport, *ids = line.split()
    ends = (ipaddress.ip_address(src).packed, ipaddress.ip_address(dst).packed)
    for seed, wanted in enumerate(ids):
        found = community_id(seed, (*ends, int(proto), int(sport), int(dport)))
        assert wanted in ("-", found[2:])
        assert found.startswith("1:")


ENDS = st.sampled_from([4, 16]).flatmap(
    # Short alphabets make equal addresses and common prefixes likely.
    lambda size: st.tuples(
        *[st.binary(min_size=size, max_size=size) | st.sampled_from([b"\x20" * size] * 2)] * 2
    )
)
PROTOS = st.sampled_from([1, 6, 17, 58, 132]) | st.integers(0, 255)
PORTS = st.integers(0, 65535) | st.integers(0, 3)


@given(st.integers(0, 65535), ENDS, PROTOS, PORTS, PORTS)
def test_any_flow_has_the_id_hashlib_derives(
    seed: int, ends: tuple[bytes, bytes], proto: int, sport: int, dport: int
) -> None:
    """Random flows of both families; ICMP with any type and code."""
    if proto in ANSWERS:
        sport, dport = sport & 0xFF, dport & 0xFF
    wanted = expected_id(seed, (*ends, proto, sport, dport))
    assert community_id(seed, (*ends, proto, sport, dport)) == wanted
    if proto not in ANSWERS:
        assert community_id(seed, (ends[1], ends[0], proto, dport, sport)) == wanted


@pytest.mark.parametrize("proto", [1, 58])
def test_every_icmp_type_is_one_way_or_answered(proto: int) -> None:
    """All 256 types in both directions, and a question with its answer share an id."""
    a, b = bytes(15) + b"\x20", bytes(15) + b"\x30"
    for kind in range(256):
        for ends in ((a, b), (b, a)):
            flow = (*ends, proto, kind, 3)
            assert community_id(0, flow) == expected_id(0, flow)
    for ask, answer in ANSWERS[proto].items():
        assert community_id(0, (a, b, proto, ask, 0)) == community_id(0, (b, a, proto, answer, 1))


def test_ends_of_different_families_are_hashed_as_ipv6() -> None:
    """A mapped address beside an IPv6 one was written in 16 bytes on the wire."""
    mapped, other = b"\0" * 10 + b"\xff\xff\x01\x02\x03\x04", b"\xfe\x80" + b"\0" * 14
    flow = (mapped, other, 6, 1, 2)
    assert community_id(0, flow) == expected_id(0, flow)


def test_plain_python_writes_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
