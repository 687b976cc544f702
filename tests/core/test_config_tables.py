"""Settings that are tables: layers add to them option by option, and secrets are never shown."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from core import config
from core.config import decode, from_environment, render_toml
from core.errors import SettingError


def test_options_of_layers_add_up() -> None:
    """A later layer replaces single options; TOML's dotted names are those of librdkafka."""
    file = tomllib.loads('[kafka.options]\nsasl.username = "a"\n"sasl.mechanism" = "PLAIN"\n')
    layers = [("a.toml", file), ("f", {"kafka": {"options": {"sasl.username": "b"}}})]
    want = {"sasl.username": "b", "sasl.mechanism": "PLAIN"}
    assert decode(layers).kafka.options == want
    env = from_environment({"PENSTOCK_KAFKA_OPTIONS": '{"sasl": {"username": {"env": "U"}}}'})
    named = decode([*layers, (config.ENVIRONMENT, env)]).kafka.options
    assert named == want | {"sasl.username": {"env": "U"}}


def test_secrets_are_never_shown() -> None:
    """What holds a secret is replaced; what says where one is kept is shown."""
    names = (
        "sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret",
        "sasl.passwd", "sasl.pwd", "ssl_key", "sasl.kerberos.kinit.cmd",
    )  # fmt: skip
    settings = decode([("f", {"kafka": {"options": dict.fromkeys(names, "hunter2")}})])
    text = render_toml(settings, {})
    assert "hunter2" not in text
    assert text.count("(set, not shown)") == len(names)
    assert tomllib.loads(text)["kafka"].get("options") is None
    kept = decode([("f", {"kafka": {"options": {"sasl.password": {"file": "/run/pw"}}}})])
    assert decode([("again", tomllib.loads(render_toml(kept, {})))]) == kept


@pytest.mark.parametrize(
    "options",
    [{"sasl.password": ["hunter2"]}, "hunter2", 7,
     {"sasl.password": {"env": ""}}],
)  # fmt: skip
def test_refused_options_are_not_shown_either(options: Any) -> None:
    """The line of a refusal names the table, not what was in it."""
    with pytest.raises(SettingError, match=r"f: kafka\.options") as caught:
        decode([("f", {"kafka": {"options": options}})])
    line = str(caught.value)
    assert "hunter2" not in line.lower()


def test_a_refusal_names_the_option() -> None:
    """The line says which of the options is meant."""
    with pytest.raises(SettingError, match=r'kafka\.options\."linger": what was given is refused'):
        decode([("f", {"kafka": {"options": {"client.id": "a", "linger": None}}})])
