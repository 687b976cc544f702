"""Carrying out what a command asked for: progress on the way, the summary at the end."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.console import put, say

if TYPE_CHECKING:
    from connectors.read_back import OnRecord
    from core.sections import RunSettings, Settings
    from flows.replay import Progress
    from flows.summary import Summary


def carry_out(
    settings: Settings,
    on_record: OnRecord | None = None,
    reread: Callable[[], Settings] | None = None,
) -> Summary:
    """Replay with a progress bar on a terminal; say so when kernels are compiled."""
    from connectors.stderr import engine_held_back

    with engine_held_back(), announcing_compilation():
        with _nothing_is_garbage():
            from flows.replay import replay as carry
        with _progress_bar() as progress:
            return carry(settings, say, progress, on_record, reread)


@contextmanager
def _nothing_is_garbage() -> Iterator[None]:
    """Import without looking for garbage among what modules hold: a fifth of the time it takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def announcing_compilation() -> Iterator[list[str]]:
    """Say once that kernels are compiled, if they are; yield a list that receives their names."""
    with _nothing_is_garbage():
        from core import kernels

    compiled: list[str] = []

    def tell(name: str) -> None:
        if not compiled:
            say("compiling kernels, once for runs like this one: up to 30 s")
        compiled.append(name)

    kernels.on_compile.append(tell)
    try:
        yield compiled
    finally:
        kernels.on_compile.remove(tell)


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Show a bar on standard error when that is a terminal; yield what moves it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def progress(done: int, total: int, packets: int) -> None:
            bar.update(
                task, completed=done, total=total or None, description=f"{packets:,} packets"
            )

        yield progress


def show(summary: Summary, run: RunSettings, *, as_json: bool) -> None:
    """Print a summary on standard output."""
    import msgspec

    from core.kafka_address import is_kafka

    if as_json:
        put(msgspec.json.encode(summary).decode())
        return
    from rich.console import Console

    from flows.summary import table

    console = Console()
    with console.capture() as text:
        console.print(table(summary, run.sink_place, of_topic=any(map(is_kafka, run.paths))))
    put(text.get().rstrip("\n"))
