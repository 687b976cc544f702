"""Settings with properties of librdkafka, and the one line with which they are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connectors import kafka_client
from core.errors import SettingError
from core.sections import KafkaSettings

SECRET = "xylophone quartz=badger jumbo"


def options(**found: Any) -> KafkaSettings:
    """Settings with these properties, `__` for the dots in their names."""
    names = {name.replace("__", "."): value for name, value in found.items()}
    return msgspec.convert({"options": names}, KafkaSettings)


def refusal(settings: KafkaSettings) -> str:
    """Return the line with which settings are refused."""
    with pytest.raises(SettingError) as caught:
        kafka_client.check(settings)
    line = str(caught.value)
    assert line.isprintable()
    return line
