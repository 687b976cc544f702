"""`penstock run`: live packets in, until a signal ends it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UsageError
from flows import options
from flows.carry import carry_out, show
from flows.console import say

if TYPE_CHECKING:
    from core.config import Layer

run_app = typer.Typer(help="Run a flow on live packets.", no_args_is_help=True,
                      rich_markup_mode=None)  # fmt: skip


@run_app.callback()
def _named() -> None:
    """Keep the name of the flow a word of its own, though there is one flow only."""


@run_app.command("ingest")
def ingest(
    udp: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Receive datagrams there; IPv6 as [::]:9999."),
    ] = None,
    iface: Annotated[
        list[str] | None,
        typer.Option(metavar="IF", help="Capture on this interface, by host unless --by device."),
    ] = None,
    bpf: options.Filter = None,
    by: options.By = None,
    port: options.Port = None,
    datagrams: options.Format = None,
    json_key: options.JsonKey = None,
    rate: options.Rate = None,
    burst: options.Burst = None,
    sink: options.Sink = None,
    recovery: Annotated[
        str | None, typer.Option(help="Folder of snapshots: state goes on after a restart.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="FILE.pcap", help="Write what is received there, too.")
    ] = None,
    evidence: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write the packets of findings there.")
    ] = None,
    config: options.Config = None,
    pidfile: Annotated[
        str | None, typer.Option(help="File for the number of this process, while it runs.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Receive, judge and deliver until SIGINT or SIGTERM; then drain, and account for it all."""
    from connectors.pidfile import hold_pidfile
    from connectors.settings import load
    from connectors.signals import reload_on_hangup

    flags: list[Layer] = [("run", {"run": {"paths": ()}})]
    if udp or iface:  # one given as a flag stands for both
        flags.append(("--udp", {"udp": {"addresses": tuple(udp or ())}}))
        flags.append(("--iface", {"packet": {"interfaces": tuple(iface or ())}}))
    flags += options.layers(
        by=by or ("host" if iface else None), port=port, format=datagrams, json_key=json_key,
        filter=bpf, rate=rate, burst=burst, sink=sink, recovery=recovery, record=record,
        evidence=evidence,
    )  # fmt: skip
    settings = load(config, flags).settings
    if not settings.udp.addresses and not settings.packet.interfaces:
        raise UsageError("nothing to receive on: give --udp HOST:PORT or --iface IF")
    with ExitStack() as undo:
        undo.callback(reload_on_hangup(_not_now))  # by default it would end us
        if pidfile is not None:
            undo.callback(hold_pidfile(Path(pidfile)))
        summary = carry_out(settings, reread=lambda: load(config, flags).settings)
    show(summary, settings.run, as_json=as_json)
    raise typer.Exit(1 if summary.lost or summary.failed else 0)


def _not_now() -> None:
    say("not reloaded: the run is starting or ending; ask again when it receives")
