"""Settings: layers, bounds, refusals of one line, and TOML that decodes to the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import config
from core.config import LISTS, decode, from_environment, render_toml
from core.errors import SettingError
from core.sections import DamSettings, Settings
from core.topics import TOPICS

NUMBERS = ("integer", "number")
NAMES = [setting.name for setting in config.describe()]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
OWN_TEXT = {
    "capture.json_key": st.sampled_from(["id", "a.b", "é . x"]),
    "run.sink": st.just("null") | TEXT.filter(bool).map("files:".__add__),
    "run.recovery": st.just(""),
    "anomaly.detector": st.sampled_from(["gaussian", "half_space"]),
    "metrics.host": st.sampled_from(["127.0.0.1", "::1"]),
}
PLACE = st.sampled_from(["env", "file"]).flatmap(lambda w: st.fixed_dictionaries({w: st.just("X")}))
OWN_TABLES = {
    "kafka.topics": st.dictionaries(st.sampled_from(sorted(TOPICS)), st.just("other"), max_size=2),
    # Of a secret only where it is kept is written as TOML.
    "kafka.options": st.dictionaries(
        st.from_regex(r"client\.[a-z0-9_]{1,9}", fullmatch=True),
        st.integers(-9, 9) | st.booleans() | TEXT | PLACE,
        max_size=3,
    ) | st.fixed_dictionaries({"ssl.key": PLACE}),
}  # fmt: skip
WORDS = st.lists(st.from_regex(r"[!-~]{1,9}", fullmatch=True), max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def nested(name: str, value: Any) -> dict[str, dict[str, Any]]:
    section, _, key = name.partition(".")
    return {section: {key: value}}


def value_of(settings: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def refusal(*layers: config.Layer) -> str:
    with pytest.raises(SettingError) as caught:
        decode(layers)
    return str(caught.value)


def answer(layer: config.Layer) -> str:
    """The line of a refusal; empty when the layer decodes."""
    try:
        decode([layer])
    except SettingError as error:
        return str(error)
    return ""


def values(name: str) -> st.SearchStrategy[Any]:
    """Values within the bounds of a setting, by its annotation."""
    section, _, key = name.partition(".")
    kind, meta = get_args(
        next(
            field.type
            for field in msgspec.structs.fields(type(getattr(Settings(), section)))
            if field.name == key
        )
    )
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is int:
        return st.integers(meta.ge, meta.le)
    if kind is float:
        return st.floats(meta.ge, meta.le)
    if kind is str:
        return OWN_TEXT.get(name, TEXT)
    if get_origin(kind) is dict:
        return OWN_TABLES[name]
    if "bool" in str(kind):
        return st.booleans()
    # Not set is what TOML writes by leaving it out, so that it is not drawn here.
    ports = st.integers(1, 65_535).map(str)
    each = ports if name == "detect.login_ports" else TEXT.filter(bool)
    return WORDS if name in LISTS else st.lists(each, max_size=3)


def test_defaults_are_within_their_own_bounds() -> None:
    """The defaults, given explicitly, decode to the defaults."""
    layer = msgspec.to_builtins(Settings())
    assert decode([("defaults", layer)]) == decode([]) == Settings()


def test_defaults_are_those_promised() -> None:
    """The defaults users rely on are these."""
    settings = Settings()
    assert (settings.capture.by, settings.capture.port) == ("device", 9999)
    assert (settings.dam.rate_hz, settings.dam.burst) == (10_000, 50_000)
    assert (settings.dam.queue_len_max, settings.dam.queue_bytes_max) == (10_000, 16 * 1024 * 1024)
    assert (settings.capture.batch_len, settings.frame.body_bytes_max) == (8192, 65_485)
    assert (settings.run.shards, settings.run.epoch_s, settings.run.sink) == (1, 1.0, "null")


def test_settings_cannot_be_changed() -> None:
    """A section is frozen and takes its settings by keyword only."""
    with pytest.raises(AttributeError):
        Settings().dam.rate_hz = 1  # type: ignore[misc]  # that it is frozen is the point
    with pytest.raises(TypeError):
        DamSettings(True)  # type: ignore[call-arg]  # by position on purpose


def test_later_layers_win_setting_by_setting() -> None:
    """A layer replaces single settings and leaves the rest of the section as it was."""
    layers = [
        ("a.toml", {"dam": {"rate_hz": 5, "burst": 6}}),
        (config.ENVIRONMENT, from_environment({"PENSTOCK_DAM_RATE_HZ": "7"})),
        ("--rate", {"dam": {"queue_len_max": 8}}),
    ]
    dam = decode(layers).dam
    assert (dam.rate_hz, dam.burst, dam.queue_len_max) == (7, 6, 8)
    assert config.origins(layers) == {
        "dam.rate_hz": "PENSTOCK_DAM_RATE_HZ",
        "dam.burst": "a.toml",
        "dam.queue_len_max": "--rate",
    }


def test_an_overridden_mistake_is_not_a_mistake() -> None:
    """Only the value that counts is held to its bounds."""
    layers = [("a.toml", {"dam": {"rate_hz": 0}}), ("--rate", {"dam": {"rate_hz": 3}})]
    assert decode(layers).dam.rate_hz == 3


@pytest.mark.parametrize("name", [s.name for s in config.describe() if s.type in NUMBERS])
def test_every_number_is_held_to_its_bounds(name: str) -> None:
    """Just outside its bounds a number is refused, on them it is accepted."""
    setting = next(s for s in config.describe() if s.name == name)
    low, _, high = setting.bounds.split()[:3]
    kind = int if setting.type == "integer" else float
    for bound in (kind(low), kind(high)):
        assert value_of(decode([("f", nested(name, bound))]), name) == bound
    for outside in (kind(low) - 1, kind(high) + 1, float("nan"), float("inf"), True, "1", None):
        line = refusal(("f", nested(name, outside)))
        assert line.startswith(f"f: {name}: ")
        assert setting.bounds in line


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        (
            {"dam": {"rate_hz": 0}},
            "penstock.toml: dam.rate_hz: 0 is refused; must be integer, 1 to 1000000 frames/s",
        ),
        (
            {"capture": {"by": "devise"}},
            'penstock.toml: capture.by: "devise" is refused; must be "device" or "host"',
        ),
        (
            {"dam": {"enabled": "on"}},
            'penstock.toml: dam.enabled: "on" is refused; must be true or false',
        ),
        (
            {"anomaly": {"threshold": 0.6}},
            "penstock.toml: anomaly.threshold: 0.6 is refused; must be number, 1e-09 to 0.5",
        ),
        (
            {"run": {"sink": "files:"}},
            (
                'penstock.toml: run.sink: "files:" is refused; '
                'must be text, "null", "embedded", "files:DIR" or "kafka://HOST:PORT", '
                "at most 4096 characters"
            ),
        ),
        ({"dam": 3}, "penstock.toml: dam: 3 is refused; must be a section"),
        (
            {"dam": {"rate_hs": 1}},
            "penstock.toml: dam.rate_hs: unknown setting; did you mean dam.rate_hz?",
        ),
        (
            {"damn": {"rate_hz": 1}},
            "penstock.toml: damn.rate_hz: unknown setting; did you mean dam.rate_hz?",
        ),
        ({"damn": {}}, "penstock.toml: damn: unknown setting; did you mean dam?"),
        ({"rate_hz": 1}, "penstock.toml: rate_hz: unknown setting; did you mean dam.rate_hz?"),
        (
            {"dam": {"window_ns": 1}},
            "penstock.toml: dam.window_ns: unknown setting; did you mean features.window_ns?",
        ),
        (
            {"run": {"paths": ["a", 1]}},
            (
                'penstock.toml: run.paths: ["a", 1] is refused; '
                "must be list of text, paths that are not empty, at most 65536"
            ),
        ),
    ],
)
def test_a_refusal_says_where_what_and_the_cure(layer: dict[str, Any], line: str) -> None:
    """The line names the file, the setting, the value, and what would be accepted."""
    assert refusal(("penstock.toml", layer)) == line


@pytest.mark.parametrize(
    "run",
    [{"sink": "kafka://me:hunter2@a:1"}, {"sink": "kafka://me:hunter2 @a:1"},
     {"paths": ["kafka://me:hunter2@a:1/t"]}, {"paths": ("kafka://me:hunter2@a:1/t",)}],
)  # fmt: skip
def test_a_password_in_an_address_is_refused_unseen(run: dict[str, Any]) -> None:
    """The line says where it belongs, and does not quote it."""
    line = refusal(("penstock.toml", {"run": run}))
    assert line == (
        f"penstock.toml: run.{next(iter(run))}: an address of Kafka has no @; "
        "give sasl.username and sasl.password under kafka.options"
    )
    assert decode([("x", {"run": {"sink": "files:me@home", "paths": ["a@b"]}})]).run.paths


def test_a_refused_variable_is_named() -> None:
    """What the environment says wrong is named by its variable and its setting."""
    layer = from_environment({"PENSTOCK_DAM_RATE_HZ": "fast"})
    assert refusal((config.ENVIRONMENT, layer)) == (
        'PENSTOCK_DAM_RATE_HZ: dam.rate_hz: "fast" is refused; '
        "must be integer, 1 to 1000000 frames/s"
    )


def test_an_unknown_variable_names_the_nearest() -> None:
    """A misspelt variable of ours is refused; others, and those that are no settings, are not."""
    with pytest.raises(SettingError) as caught:
        from_environment({"PENSTOCK_DAM_RATE_HS": "1"})
    assert str(caught.value) == (
        "PENSTOCK_DAM_RATE_HS: unknown setting; did you mean PENSTOCK_DAM_RATE_HZ?"
    )
    exempt = ["PENSTOCK_CONFIG", "PENSTOCK_CORPUS", "PENSTOCK_TEST_X", "PATH", "XPENSTOCK_DAM"]
    assert from_environment(dict.fromkeys(exempt, "x")) == {}
    for near_miss in ("PENSTOCK_CORPUS_", "PENSTOCK_TEST", "PENSTOCK_"):
        with pytest.raises(SettingError):
            from_environment({near_miss: "x"})


def test_text_of_the_environment_is_converted_by_type() -> None:
    """Numbers, booleans, lists and text come out of variables as what the setting is."""
    env = {
        "PENSTOCK_DAM_ENABLED": "false",
        "PENSTOCK_RUN_EPOCH_S": "0.5",
        "PENSTOCK_RUN_STRICT": "1",
        "PENSTOCK_RUN_PATHS": "a.pcap:b c.pcap::-",
        "PENSTOCK_RUN_SCORES": "12",
        "PENSTOCK_CAPTURE_BATCH_LEN": "100",
        "PENSTOCK_UDP_ADDRESSES": "0.0.0.0:9999 [::]:9999",
        "PENSTOCK_PACKET_INTERFACES": " eth0 ",
    }
    settings = decode([(config.ENVIRONMENT, from_environment(env))])
    assert settings.dam.enabled is False
    assert (settings.run.epoch_s, settings.run.strict) == (0.5, True)
    assert settings.run.paths == ("a.pcap", "b c.pcap", "-")
    assert (settings.run.scores, settings.capture.batch_len) == ("12", 100)
    assert settings.udp.addresses == ("0.0.0.0:9999", "[::]:9999")
    assert settings.packet.interfaces == ("eth0",)


def test_text_of_a_file_is_not_converted() -> None:
    """A number in quotation marks is a mistake where numbers can be written."""
    assert '"100"' in refusal(("a.toml", {"dam": {"rate_hz": "100"}}))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (
            [("--scores", {"run": {"scores": "s.npy"}}), ("a", {"run": {"recovery": "r"}})],
            ["run.scores (--scores)", "run.recovery (a)"],
        ),
        (
            [("a", {"run": {"paths": ["x", "-"]}}), ("--recovery", {"run": {"recovery": "r"}})],
            ["run.paths (a)", "run.recovery (--recovery)"],
        ),
    ],
)
def test_settings_that_exclude_one_another_are_both_named(
    layers: list[config.Layer], names: list[str]
) -> None:
    """Recovery goes neither with scores nor with standard input, and the line names both."""
    line = refusal(*layers)
    assert all(name in line for name in names)
    assert "\n" not in line


def test_the_dam_is_on_by_device_and_off_by_host_unless_said() -> None:
    """Left open, the dam follows who is analysed; set, it does as it is told."""

    def on(**layer: Any) -> bool:
        return decode([("f", layer)]).dam_is_on

    assert on()
    assert not on(capture={"by": "host"})
    assert on(capture={"by": "host"}, dam={"enabled": True})
    assert not on(dam={"enabled": False})


def test_the_sink_folder_is_what_follows_the_colon() -> None:
    """A files sink has a folder, the null sink has none."""
    assert decode([]).run.sink_folder is None
    assert decode([("f", {"run": {"sink": "files:a:b"}})]).run.sink_folder == "a:b"


def test_every_setting_describes_itself() -> None:
    """Each setting has a sentence, a type, bounds where it needs them, and its default."""
    for setting in config.describe():
        assert setting.doc.endswith("."), setting.name
        assert setting.type, setting.name
        assert setting.default == value_of(Settings(), setting.name)
        assert bool(setting.bounds) == (not setting.type.endswith(('"', "false"))), setting.name
    assert len(NAMES) == len(set(NAMES))


@given(st.data())
def test_rendered_settings_decode_to_the_same(data: st.DataObject) -> None:
    """Any settings, written as TOML and read again, are the settings they were."""
    names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
    layer: dict[str, dict[str, Any]] = {}
    for name in names:
        section, _, key = name.partition(".")
        layer.setdefault(section, {})[key] = data.draw(values(name))
    settings = decode([("drawn", layer)])
    text = render_toml(settings, dict.fromkeys(names, "drawn\n"))
    assert decode([("again", tomllib.loads(text))]) == settings
    assert text.count("  # drawn") == len(names)


def test_rendering_comments_out_what_toml_cannot_say() -> None:
    """What is not set, and the raw bytes of a file name, are shown as comments."""
    undecodable = b"\xff.pcap".decode(errors="surrogateescape")
    settings = decode([("f", {"run": {"paths": [undecodable]}})])
    text = render_toml(settings, {})
    assert "\n# enabled = null  # default\n" in text
    assert '\n# paths = ["\\U0000dcff.pcap"]  # default\n' in text
    assert decode([("again", tomllib.loads(text))]) == Settings()


def test_a_topic_is_a_path_of_its_own() -> None:
    """A variable that names a topic is not split at its colons."""
    layer = from_environment({"PENSTOCK_RUN_PATHS": "kafka://a:9092/t"})
    assert decode([(config.ENVIRONMENT, layer)]).run.paths == ("kafka://a:9092/t",)


@given(st.dictionaries(st.sampled_from([*NAMES, "dam", "x.y", "\n"]) | st.text(), JSON, max_size=4))
def test_any_layer_gives_settings_or_one_line(flat: dict[str, Any]) -> None:
    """Whatever a layer holds, the answer is settings or one printable line."""
    layer: dict[str, Any] = {}
    for name, value in flat.items():
        section, dot, key = name.partition(".")
        if dot and isinstance(layer.setdefault(section, {}), dict):
            layer[section][key] = value
        else:
            layer[section] = value
    line = answer(("file\n.toml", layer))
    assert line.isprintable()
    assert line.startswith(("file\\U0000000a.toml: ", "run.")) or not line


@given(st.sampled_from(NAMES), st.text())
def test_any_variable_gives_settings_or_one_line(name: str, text: str) -> None:
    """Whatever a variable holds, the answer is settings or one printable line naming it."""
    variable = "PENSTOCK_" + name.replace(".", "_").upper()
    line = answer((config.ENVIRONMENT, from_environment({variable: text})))
    assert line.isprintable()
    assert line.startswith(f"{variable}: {name}: ") or not line


def test_a_huge_value_is_refused_in_a_short_line() -> None:
    """Neither a number of many digits nor a deep or long value makes a long line."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (1 << 100_000, "x" * 100_000, deep, object()):
        assert len(refusal(("f", {"dam": {"rate_hz": value}}))) < 200


def test_importing_settings_loads_no_compiler() -> None:
    """The command line reads settings without waiting for numba or numpy."""
    code = "import sys, core.config; print({'numba', 'numpy', 'pyarrow', 'river'} & {*sys.modules})"
    house = Path(config.__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=house) == b"set()\n"
