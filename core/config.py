"""Settings decoded once: layers over the defaults, within bounds, or one line that says why not.

Laws:

1. What the settings are is said once, in `core.sections`.
2. Settings come in layers: defaults < TOML < environment < flags. A later layer replaces single
   settings, never whole sections; of a table of options, single options.
3. Whatever a layer holds, the result is a `Settings` within all bounds or one `SettingError` whose
   one printable line names the origin, the setting, the value and what would be accepted; for an
   unknown name, the nearest known one.
4. Only text of the environment is converted by type; TOML and flags say what type they mean.

Not here: reading files or the process environment (`connectors.settings`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from core.errors import SettingError
from core.kafka_address import NO_LOGIN, is_kafka
from core.plain import plain
from core.sections import RunSettings, Settings

ENVIRONMENT = "environment"
"""Origin of the layer `from_environment` returns; refusals name the variable instead."""
ENV_EXEMPT = re.compile(r"PENSTOCK_(CONFIG|CORPUS|TEST_.*)", re.DOTALL)
"""Variables of our prefix that are not settings: the TOML file, the test corpus, tests' own."""

Layer = tuple[str, Mapping[str, Any]]
"""Where settings come from, and what it says: `(origin, {section: {key: value}})`."""

TABLES = ("kafka.topics", "kafka.options")
"""Settings that are tables of options, which layers add to one by one."""
LISTS = ("udp.addresses", "packet.interfaces")
"""Settings that are lists of words, separated by blanks in the environment."""
SECRET = re.compile(
    r"pas|pwd|secret|token|key$|\.pem$|jaas|oauthbearer\.(config|extensions)|assertion|kinit"
)
"""Options whose value is never shown; names are also misspelt."""
_SHOWN_MAX = 80


class Setting(NamedTuple):
    """One setting as users see it; every field but `default` is text."""

    name: str
    type: str
    default: Any
    bounds: str
    doc: str


class _Given(NamedTuple):
    value: Any
    origin: str
    is_env: bool


@functools.cache
def _known() -> dict[str, tuple[Any, Setting]]:
    """Return every setting's annotated type and description, by dotted name, in order."""
    known = {}
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            kind, meta = get_args(field.type)
            name = f"{section.name}.{field.name}"
            default = {} if name in TABLES else field.default
            known[name] = (
                field.type,
                Setting(name, _kind(kind), default, meta.extra["bounds"], meta.description),
            )
    return known


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    if get_origin(kind) is dict:
        return "table"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(kind, "true or false" if kind == bool | None else "list of text")


def describe() -> list[Setting]:
    """Return every setting with its type, default, bounds with unit, and meaning, in order."""
    return [setting for _, setting in _known().values()]


def from_environment(env: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Pick the settings out of environment variables: `PENSTOCK_DAM_RATE_HZ` is `dam.rate_hz`.

    Args:
        env: Variables by name; others are left alone. A list of paths is split at
            `os.pathsep`, any other list at blanks; a table is a JSON object.

    Returns:
        `{section: {key: text}}`, to be given to `decode` with the origin `ENVIRONMENT`.

    Raises:
        SettingError: A variable has the prefix and names no setting.
    """
    variables = {_variable(name): name for name in _known()}
    found: dict[str, dict[str, Any]] = {}
    for variable, text in sorted(env.items()):
        if not variable.startswith("PENSTOCK_") or ENV_EXEMPT.fullmatch(variable):
            continue
        if variable not in variables:
            near = _nearest(variable, variables)
            raise SettingError(f"{plain(variable)}: unknown setting; did you mean {near}?")
        section, _, key = variables[variable].partition(".")
        found.setdefault(section, {})[key] = _from_text(variables[variable], text)
    return found


def _from_text(name: str, text: str) -> Any:
    """Take a list or a table out of the text of a variable; leave any other text as it is."""
    if name == "run.paths":
        whole = is_kafka(text)
        return [text] if whole else [part for part in text.split(os.pathsep) if part]
    if name in LISTS:
        return text.split()
    if name in TABLES:
        with contextlib.suppress(ValueError, RecursionError):  # refused as the text it is
            return json.loads(text)
    return text


def decode(layers: Sequence[Layer]) -> Settings:
    """Merge layers over the defaults and decode the result once.

    Args:
        layers: Later ones win. The origin is the name of a file or a flag, or `ENVIRONMENT`.

    Returns:
        Settings within all bounds.

    Raises:
        SettingError: One line; the first problem found.
    """
    given = _merge(layers)
    values: dict[str, dict[str, Any]] = {}
    for name, (value, origin, is_env) in given.items():
        kind, setting = _known()[name]
        section, _, key = name.partition(".")
        texts = (
            [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        )
        if section == "run" and any(is_kafka(str(each)) and "@" in str(each) for each in texts):
            raise SettingError(f"{plain(origin)}: {name}: {NO_LOGIN}")
        try:
            decoded = msgspec.convert(value, kind, strict=not is_env)
        except (msgspec.ValidationError, RecursionError) as error:
            want = f"{setting.type}, {setting.bounds}".removesuffix(", ")
            at, shown = f"{plain(origin)}: {name}", _shown(value)
            if name in TABLES:  # which may hold secrets
                at, shown = f"{at}{_refused(value, kind)}", "what was given"
            raise SettingError(f"{at}: {shown} is refused; must be {want}") from error
        values.setdefault(section, {})[key] = decoded
    settings = msgspec.convert(values, Settings)
    _check_together(settings.run, given)
    return settings


def _refused(table: Any, kind: Any) -> str:
    """Return which option of a table is refused, as the end of its name."""
    for option, value in table.items() if isinstance(table, Mapping) else ():
        try:
            msgspec.convert({option: value}, kind)
        except (msgspec.ValidationError, RecursionError):
            return f'."{plain(option)}"'
    return ""


def origins(layers: Sequence[Layer]) -> dict[str, str]:
    """Return the origin of each setting that is not a default, by dotted name."""
    return {name: given.origin for name, given in _merge(layers).items()}


def render_toml(settings: Settings, origins: Mapping[str, str]) -> str:
    """Write settings as TOML that decodes to the same, each with its origin as a comment."""
    lines: list[str] = []
    section = ""
    for name in _known():
        table, _, key = name.partition(".")
        if table != section:
            lines += [*([""] if lines else []), f"[{table}]"]
            section = table
        value = getattr(getattr(settings, table), key)
        # TOML has neither a null nor a way to write the undecodable bytes of a file name.
        texts = "".join(map(str, value) if isinstance(value, tuple) else (str(value),))
        is_toml = value is not None and not re.search(r"[\ud800-\udfff]", texts)
        if name in TABLES:
            hidden = [option for option in value if _is_secret(option, value[option])]
            value = value | dict.fromkeys(hidden, "(set, not shown)")
            is_toml = is_toml and not hidden
        lines.append(
            f"{'' if is_toml else '# '}{key} = {_toml(value)}"
            f"  # {plain(origins.get(name, 'default'))}"
        )
    return "\n".join(lines) + "\n"


def _merge(layers: Sequence[Layer]) -> dict[str, _Given]:
    """Flatten layers to dotted names; refuse what is no section or no setting."""
    sections = Settings.__struct_fields__
    merged: dict[str, _Given] = {}
    for origin, layer in layers:
        is_env = origin == ENVIRONMENT
        for section, table in layer.items():
            at = f"{plain(origin)}: {plain(section)}"
            if section not in sections and not (isinstance(table, Mapping) and table):
                near = _nearest(section, [*sections, *_known()])
                raise SettingError(f"{at}: unknown setting; did you mean {near}?")
            if not isinstance(table, Mapping):
                raise SettingError(f"{at}: {_shown(table)} is refused; must be a section")
            for key, value in table.items():
                name = f"{section}.{key}"
                if name not in _known():
                    near = _nearest(name, _known())
                    raise SettingError(f"{at}.{plain(key)}: unknown setting; did you mean {near}?")
                if name in TABLES and isinstance(value, Mapping):
                    before = merged[name].value if name in merged else {}
                    value = {**before, **_flat(value)}  # noqa: PLW2901  one setting, two shapes
                merged[name] = _Given(value, _variable(name) if is_env else origin, is_env)
    return merged


def _flat(table: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Join nested names by dots, because TOML reads `sasl.username` as a table within a table.

    A table of nothing but `env` or `file` is not nested: it says where a value is kept.
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value and set(value) not in ({"env"}, {"file"}):
            flat |= _flat(value, f"{head}{key}.")
        else:
            flat[f"{head}{key}"] = value
    return flat


def _check_together(run: RunSettings, given: Mapping[str, _Given]) -> None:
    """Refuse settings that are each in bounds and exclude one another."""
    if not run.recovery:
        return
    recovery = f"run.recovery ({plain(given['run.recovery'].origin)})"
    if run.scores:
        other, cure = "run.scores", "a resumed run scores only its last part; leave out one of them"
    elif "-" in run.paths:
        other, cure = "run.paths", "standard input (-) cannot be read again; name a file instead"
    elif run.sink == "embedded":
        other, cure = "run.sink", "what the embedded broker holds ends with the run; name another"
    else:
        return
    origin = plain(given[other].origin)
    raise SettingError(f"{other} ({origin}) and {recovery} exclude one another: {cure}")


def _variable(name: str) -> str:
    return "PENSTOCK_" + name.replace(".", "_").upper()


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like `name`, by the whole and by its last part."""
    from difflib import SequenceMatcher

    def likeness(other: str) -> float:
        parts = ((name, other), (name.rpartition(".")[2], other.rpartition(".")[2]))
        return sum(SequenceMatcher(None, a[:_SHOWN_MAX], b).ratio() for a, b in parts)

    return max(known, key=likeness)


def _is_secret(option: str, value: Any) -> bool:
    """Tell whether an option holds a secret itself, and not where one is kept."""
    return isinstance(value, str) and SECRET.search(option) is not None


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_toml(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    return f'"{plain(value, quote=True)}"' if isinstance(value, str) else json.dumps(value)


def _shown(value: Any) -> str:
    """Return a refused value as it would be written, in one short line."""
    try:
        text = _toml(value) if isinstance(value, str) else plain(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        text = f"this {type(value).__name__}"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
