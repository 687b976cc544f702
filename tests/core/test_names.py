"""Texts of hashed keys against a dictionary: those that came last are known, and can be saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import names as module
from core.batches import FrameBatch
from core.headers import decode_headers
from core.names import Names, text_of
from core.payloads import Payloads
from tests.frames import PORT, packet_batch, udp_packet
from tests.plain import rest_passes

BY_ID = Payloads.of("json", "id")


def arrivals(texts: list[str]) -> FrameBatch:
    """Return datagrams keyed by texts."""
    batch = packet_batch([udp_packet(json.dumps({"id": text}).encode()) for text in texts])
    reason, frames = BY_ID.frames(batch, decode_headers(batch), PORT, 1_000)
    assert not reason.any()
    return frames


def keys(frames: FrameBatch) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """Return their keys as a table has them."""
    return np.stack([frames.key_hi, frames.key_lo], axis=1)


def said(names: Names, frames: FrameBatch) -> list[str]:
    """Return what is known of their keys."""
    return [text_of(row).decode() for row in names.of(keys(frames))]


HOSTS = st.sampled_from([f"host-{i}.plant-7.example.org" for i in range(12)] + ["short", "", "a\0"])


@given(st.lists(st.lists(HOSTS, min_size=1, max_size=4), max_size=8))
def test_the_keys_that_came_last_are_known(batches: list[list[str]]) -> None:
    """As many as the table beside it holds and one batch more, in the order of their arrival."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ARRIVALS_MAX", 4)
        names = Names(BY_ID, 2, 7)
    last: list[str] = []
    for texts in batches:
        names.learn(arrivals(texts))
        for text in texts:
            if len(text) > 16 or "\0" in text:
                last = [each for each in last if each != text] + [text]
        last = last[-6:]
        everybody = [f"host-{i}.plant-7.example.org" for i in range(12)] + ["a\0"]
        found = said(names, arrivals(everybody))
        assert found == [text if text in last else "" for text in everybody]


def test_what_is_saved_comes_back() -> None:
    """Keys with their texts, beside keys that are their own texts."""
    texts = ["short", "x" * 17, "é" * 127, "y" * 255, ""]
    names, frames = Names(BY_ID, 16, 1), arrivals(texts)
    names.learn(frames)
    again = Names(BY_ID, 16, 2)
    again.load(keys(frames), names.of(keys(frames)))
    assert said(again, frames) == said(names, frames) == ["", *texts[1:4], ""]


def test_plain_python() -> None:
    """Without the compiler the answers are the same."""
    rest_passes(__file__)
