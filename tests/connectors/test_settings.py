"""Reading settings: which file, which lines, and what a broken file answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import settings
from core.errors import SettingError
from core.sections import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(file: str) -> str:
    with pytest.raises(SettingError) as caught:
        settings.load(file, env={})
    return str(caught.value)


def answer(file: str) -> str:
    """The line of a refusal; empty when the file is TOML."""
    try:
        settings.read_toml(file)
    except SettingError as error:
        return str(error)
    return ""


def test_without_a_file_the_defaults_hold() -> None:
    """An empty folder and an empty environment give the defaults, from nowhere."""
    assert settings.load(env={}) == (Settings(), {}, None)


def test_the_file_of_the_folder_is_read() -> None:
    """`penstock.toml` of the working folder counts when no other file is asked for."""
    Path("penstock.toml").write_text("[dam]\nrate_hz = 5\n")
    loaded = settings.load(env={})
    assert loaded.settings.dam.rate_hz == 5
    assert loaded.origins == {"dam.rate_hz": "penstock.toml"}
    assert loaded.file == "penstock.toml"


def test_a_named_file_comes_before_the_variable_and_the_folder() -> None:
    """The file asked for wins over `PENSTOCK_CONFIG`, which wins over the folder's."""
    for number, name in enumerate(["penstock.toml", "env.toml", "flag.toml"], 1):
        Path(name).write_text(f"[dam]\nrate_hz = {number}\n")
    env = {"PENSTOCK_CONFIG": "env.toml"}
    assert settings.load("flag.toml", env=env).settings.dam.rate_hz == 3
    assert settings.load(env=env).settings.dam.rate_hz == 2
    assert settings.load(env={"PENSTOCK_CONFIG": ""}).settings.dam.rate_hz == 1


def test_layers_come_in_order() -> None:
    """Flags win over the environment, which wins over the file; each origin is told."""
    Path("penstock.toml").write_text("[dam]\nrate_hz = 1\nburst = 1\ndevice_burst = 1\n")
    loaded = settings.load(
        flags=[("--rate", {"dam": {"rate_hz": 3}})],
        env={"PENSTOCK_DAM_RATE_HZ": "2", "PENSTOCK_DAM_BURST": "2"},
    )
    dam = loaded.settings.dam
    assert (dam.device_burst, dam.burst, dam.rate_hz) == (1, 2, 3)
    assert loaded.origins == {
        "dam.device_burst": "penstock.toml",
        "dam.burst": "PENSTOCK_DAM_BURST",
        "dam.rate_hz": "--rate",
    }


def test_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, the environment is that of the process."""
    monkeypatch.setenv("PENSTOCK_CAPTURE_PORT", "7")
    assert settings.load().settings.capture.port == 7


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"[dam]\nrate_hz 5\n", "line 2"),
        (b"[dam]\nrate_hz =\n\n\n", "line 2"),
        (b"[dam]\n\n[dam", "line 3"),
        (b'[run]\nsink = "\xff"\n', "line 2: not UTF-8"),
        (b"[dam]\nrate_hz = 5\nrate_hz = 6\n", "line 3"),
    ],
)
def test_broken_toml_names_its_line(data: bytes, line: str) -> None:
    """What is not TOML, or not UTF-8, is one line with the number of the line at fault."""
    Path("a.toml").write_bytes(data)
    text = refusal("a.toml")
    assert text.startswith("a.toml: ")
    assert line in text
    assert text.isprintable()


def test_a_file_asked_for_must_be_there(folder: Path) -> None:
    """A missing file, a folder and a nameless file are refused by name."""
    assert refusal("none.toml") == (
        "none.toml: cannot be read: No such file or directory; name a readable TOML file"
    )
    assert refusal(str(folder)).startswith(f"{folder}: cannot be read: Is a directory")
    assert "cannot be read" in refusal("a\0b")
    with pytest.raises(SettingError, match=r"^gone\.toml: cannot be read"):
        settings.load(env={"PENSTOCK_CONFIG": "gone.toml"})


def test_a_dangling_file_of_the_folder_is_not_absent() -> None:
    """A `penstock.toml` that points nowhere is a mistake, not a missing file."""
    Path("penstock.toml").symlink_to("nowhere")
    with pytest.raises(SettingError, match=r"^penstock\.toml: cannot be read"):
        settings.load(env={})


def test_a_file_too_large_or_too_deep_is_refused() -> None:
    """The size of the file is bounded, and neither depth nor digits escape as another error."""
    assert "larger than 1048576 bytes" in refusal("/dev/zero")
    Path("deep.toml").write_text("a = " + "[" * 100_000)
    assert "nested too deeply" in refusal("deep.toml")
    Path("long.toml").write_text("a = " + "9" * 5_000)
    assert refusal("long.toml").startswith("long.toml: not TOML: ")


def test_an_unknown_setting_names_the_file() -> None:
    """A misspelt key of the file is refused with the file's name."""
    Path("penstock.toml").write_text("[dam]\nrate_hs = 5\n")
    with pytest.raises(SettingError) as caught:
        settings.load(env={})
    assert str(caught.value) == (
        "penstock.toml: dam.rate_hs: unknown setting; did you mean dam.rate_hz?"
    )


@given(
    st.binary(max_size=60) | st.text(alphabet='[]{}=.,"\n\\#dam1\0', max_size=40).map(str.encode)
)
def test_any_bytes_give_tables_or_one_line(data: bytes) -> None:
    """Any file is tables or one printable line that names it."""
    Path("any.toml").write_bytes(data)
    line = answer("any.toml")
    assert line.isprintable()
    assert line.startswith("any.toml: ") or not line
