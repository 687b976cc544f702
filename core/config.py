"""Every setting of Penstock: its meaning, unit, bounds and default, decoded once.

Laws:

1. A setting is one annotated field below. Its text, unit and bounds are data of the annotation, so
   that refusals, `config show` and the documentation cannot say different things.
2. Settings come in layers: defaults < TOML < environment < flags. A later layer replaces single
   settings, never whole sections.
3. Whatever a layer holds, the result is a `Settings` within all bounds or one `SettingError` whose
   one printable line names the origin, the setting, the value and what would be accepted; for an
   unknown name, the nearest known one.
4. Only text of the environment is converted by type; TOML and flags say what type they mean.

Not here: reading files or the process environment (`connectors.settings`).
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from core.errors import SettingError
from core.plain import plain

ENVIRONMENT = "environment"
"""Origin of the layer `from_environment` returns; refusals name the variable instead."""
ENV_EXEMPT = re.compile(r"PENSTOCK_(CONFIG|CORPUS|TEST_.*)", re.DOTALL)
"""Variables of our prefix that are not settings: the TOML file, the test corpus, tests' own."""

Layer = tuple[str, Mapping[str, Any]]
"""Where settings come from, and what it says: `(origin, {section: {key: value}})`."""

_NO_NUL = r"^[^\x00]*\Z"
_WORD = r"^[!-~]+\Z"
_SINK = r"^(null|files:[^\x00]+)\Z"
_SHOWN_MAX = 80


def _num(doc: str, low: float, high: float, unit: str = "") -> Meta:
    bounds = f"{low:.12g} to {high:.12g} {unit}".rstrip()
    return Meta(description=doc, ge=low, le=high, extra={"bounds": bounds})


def _text(doc: str, shape: str, pattern: str = _NO_NUL) -> Meta:
    extra = {"bounds": f"{shape}, at most 4096 characters"}
    return Meta(description=doc, max_length=4096, pattern=pattern, extra=extra)


def _choice(doc: str) -> Meta:
    return Meta(description=doc, extra={"bounds": ""})


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: frozen, by keyword, nothing unknown."""


class CaptureSettings(_Section, frozen=True, kw_only=True):
    """Which packets are read, how fast, and in what portions."""

    by: Annotated[
        Literal["device", "host"],
        _choice("Who is analysed: devices that send frames, or every host."),
    ] = "device"
    port: Annotated[int, _num("UDP port of device frames.", 1, 65_535)] = 9999
    filter: Annotated[str, _text("Packets to keep; empty keeps all.", "a BPF expression")] = ""
    speed: Annotated[
        float, _num("Pace of a replay as a multiple of capture time; 0 = max.", 0.0, 1e6, "x")
    ] = 0.0
    batch_len: Annotated[int, _num("Most packets in one batch.", 1, 65_536, "packets")] = 8192
    read_ahead_batches: Annotated[int, _num("Batches decoded ahead of use.", 1, 64, "batches")] = 8
    chunk_bytes: Annotated[
        int, _num("Bytes read from a capture at a time.", 64 << 10, 64 << 20, "bytes")
    ] = 4 << 20
    packet_bytes_max: Annotated[
        int, _num("Largest captured packet accepted.", 64, 16 << 20, "bytes")
    ] = 256 << 10


class FrameSettings(_Section, frozen=True, kw_only=True):
    """What a device frame may be."""

    body_bytes_max: Annotated[int, _num("Largest body of a frame.", 0, 65_485, "bytes")] = 65_485


class DamSettings(_Section, frozen=True, kw_only=True):
    """How many frames pass, wait or are dropped; all of it for one shard."""

    enabled: Annotated[
        bool | None, _choice("Whether to limit rates; not set = by device yes, by host no.")
    ] = None
    rate_hz: Annotated[int, _num("Frames passed on average.", 1, 1_000_000, "frames/s")] = 10_000
    burst: Annotated[int, _num("Most frames passed at once.", 1, 100_000_000, "frames")] = 50_000
    queue_len_max: Annotated[
        int, _num("Frames that wait for a token before others are dropped.", 0, 1_000_000, "frames")
    ] = 10_000
    queue_bytes_max: Annotated[
        int, _num("Bytes of bodies that wait for a token.", 0, 1 << 30, "bytes")
    ] = 16 << 20
    device_rate_hz: Annotated[
        int, _num("Frames passed for one device; 0 = no such limit.", 0, 1_000_000, "frames/s")
    ] = 0
    device_burst: Annotated[
        int, _num("Most frames passed at once for one device.", 1, 100_000_000, "frames")
    ] = 200
    devices_max: Annotated[int, _num("Devices with a bucket.", 16, 4_194_304, "devices")] = 65_536


class FeatureSettings(_Section, frozen=True, kw_only=True):
    """The windows over which each key is measured."""

    window_ns: Annotated[
        int, _num("Length of a window in packet time.", 10_000_000, 1_000_000_000, "ns")
    ] = 1_000_000_000
    keys_max: Annotated[int, _num("Devices or hosts remembered.", 16, 4_194_304, "keys")] = 65_536
    key_idle_s: Annotated[int, _num("Silence before a key is forgotten.", 1, 86_400, "s")] = 300


class AnomalySettings(_Section, frozen=True, kw_only=True):
    """What scores the windows, and when a score is a finding."""

    detector: Annotated[str, _text("Name of the detector.", "a name", _WORD)] = "gaussian"
    threshold: Annotated[float, _num("Tail probability that makes a finding.", 1e-9, 0.5)] = 1e-3
    warm_rows: Annotated[int, _num("Rows learnt before scoring.", 0, 1_000_000, "rows")] = 500
    seed: Annotated[int, _num("Seed of detectors that use chance.", 0, 4_294_967_295)] = 0
    findings_per_window_max: Annotated[
        int, _num("Most findings reported of one window.", 1, 100_000, "findings")
    ] = 100


class FlowSettings(_Section, frozen=True, kw_only=True):
    """Network flow records, written in host mode."""

    flows_max: Annotated[int, _num("Flows followed at once.", 16, 4_194_304, "flows")] = 65_536
    idle_s: Annotated[int, _num("Silence that ends a flow.", 1, 3_600, "s")] = 15
    active_s: Annotated[int, _num("Age at which a flow is reported in part.", 1, 86_400, "s")] = 60


class FilesSettings(_Section, frozen=True, kw_only=True):
    """The files sink."""

    format: Annotated[Literal["jsonl", "parquet"], _choice("Format of the files.")] = "jsonl"
    rotate_rows: Annotated[
        int, _num("Records after which a batch is the last of its file.", 1, 100_000_000, "rows")
    ] = 1_000_000


class RunSettings(_Section, frozen=True, kw_only=True):
    """One run of the flow: what it reads, where records go, how it resumes."""

    shards: Annotated[int, _num("Parts of the state; results depend on it.", 1, 1024, "shards")] = 1
    epoch_s: Annotated[float, _num("Time between snapshots and commits.", 0.01, 3600.0, "s")] = 1.0
    sink: Annotated[str, _text("Where records go.", '"null" or "files:DIR"', _SINK)] = "null"
    recovery: Annotated[str, _text("Folder of snapshots; empty = none.", "path or empty")] = ""
    paths: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=4096, pattern=_NO_NUL)], ...],
        Meta(
            description="Captures to replay: files, folders, - for standard input.",
            max_length=65_536,
            extra={"bounds": "paths that are not empty, at most 65536"},
        ),
    ] = ()
    scores: Annotated[str, _text("File (.npy) of scores; empty = none.", "path or empty")] = ""
    strict: Annotated[bool, _choice("Whether an unreadable capture fails the run.")] = False

    @property
    def sink_folder(self) -> str | None:
        """The folder of the files sink; `None` for the null sink."""
        return self.sink.removeprefix("files:") if self.sink != "null" else None


class MetricsSettings(_Section, frozen=True, kw_only=True):
    """Penstock's own Prometheus endpoint."""

    port: Annotated[int, _num("TCP port of /metrics; 0 = none.", 0, 65_535)] = 0
    host: Annotated[str, _text("Address of /metrics.", "an address", _WORD)] = "127.0.0.1"


class Settings(_Section, frozen=True, kw_only=True):
    """All settings, section by section."""

    capture: CaptureSettings = CaptureSettings()
    frame: FrameSettings = FrameSettings()
    dam: DamSettings = DamSettings()
    features: FeatureSettings = FeatureSettings()
    anomaly: AnomalySettings = AnomalySettings()
    flows: FlowSettings = FlowSettings()
    files: FilesSettings = FilesSettings()
    run: RunSettings = RunSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def dam_is_on(self) -> bool:
        """Whether frames are rate-limited: as set, else by device yes and by host no."""
        return self.capture.by == "device" if self.dam.enabled is None else self.dam.enabled


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
            known[name] = (
                field.type,
                Setting(name, _kind(kind), field.default, meta.extra["bounds"], meta.description),
            )
    return known


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(kind, "true or false" if kind == bool | None else "list of text")


def describe() -> list[Setting]:
    """Return every setting with its type, default, bounds with unit, and meaning, in order."""
    return [setting for _, setting in _known().values()]


def from_environment(env: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Pick the settings out of environment variables: `PENSTOCK_DAM_RATE_HZ` is `dam.rate_hz`.

    Args:
        env: Variables by name; others are left alone. A list is split at `os.pathsep`.

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
        is_list = variables[variable] == "run.paths"
        value = [part for part in text.split(os.pathsep) if part] if is_list else text
        found.setdefault(section, {})[key] = value
    return found


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
        try:
            decoded = msgspec.convert(value, kind, strict=not is_env)
        except (msgspec.ValidationError, RecursionError) as error:
            want = f"{setting.type}, {setting.bounds}".removesuffix(", ")
            at = f"{plain(origin)}: {name}"
            raise SettingError(f"{at}: {_shown(value)} is refused; must be {want}") from error
        values.setdefault(section, {})[key] = decoded
    settings = msgspec.convert(values, Settings)
    _check_together(settings.run, given)
    return settings


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
        texts = "".join(value if isinstance(value, tuple) else (str(value),))
        is_toml = value is not None and not re.search(r"[\ud800-\udfff]", texts)
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
                merged[name] = _Given(value, _variable(name) if is_env else origin, is_env)
    return merged


def _check_together(run: RunSettings, given: Mapping[str, _Given]) -> None:
    """Refuse settings that are each in bounds and exclude one another."""
    if not run.recovery:
        return
    recovery = f"run.recovery ({plain(given['run.recovery'].origin)})"
    if run.scores:
        other, cure = "run.scores", "a resumed run scores only its last part; leave out one of them"
    elif "-" in run.paths:
        other, cure = "run.paths", "standard input (-) cannot be read again; name a file instead"
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


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{plain(value, quote=True)}"' if isinstance(value, str) else json.dumps(value)


def _shown(value: Any) -> str:
    """Return a refused value as it would be written, in one short line."""
    try:
        text = _toml(value) if isinstance(value, str) else plain(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        text = f"this {type(value).__name__}"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
