"""`penstock evaluate`: a labelled capture replayed, and how well its scores tell the labels.

Law: nothing is scored in another way than by `penstock replay --scores`; what is counted here is
counted of the file that it writes.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import RunError, UsageError
from flows import options
from flows.carry import announcing_compilation, carry_out
from flows.console import put

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from connectors.capture_windows import Windows
    from core.config import Layer
    from core.sections import Settings
    from flows.evaluation import Evaluation


def evaluate(
    capture: Annotated[str, typer.Argument(metavar="CAPTURE", help="One capture file.")],
    labels: Annotated[
        str,
        typer.Argument(metavar="LABELS.npy", help="One integer for each packet; 0 is benign."),
    ],
    train_until: Annotated[
        int, typer.Option(help="Packets at the beginning that are learnt and not counted.")
    ] = 0,
    by: options.By = None,
    port: options.Port = None,
    datagrams: options.Format = None,
    json_key: options.JsonKey = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE.html|FILE.svg", help="Draw scores and labels over time there."),
    ] = None,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Replay a labelled capture, and say how well its scores tell the labels."""
    import msgspec

    from connectors.settings import load

    with TemporaryDirectory(prefix="penstock-") as folder:
        file = Path(folder) / "scores.npy"
        run = {"paths": (capture,), "sink": "null", "recovery": "", "scores": str(file)}
        flags: list[Layer] = [("CAPTURE", {"run": run})]
        flags += options.layers(rate=None, by=by, port=port, format=datagrams, json_key=json_key)
        done = _evaluated(load(config, flags).settings, labels, train_until, plot)
    if as_json:
        put(msgspec.json.encode(done).decode())
    else:
        from flows.evaluation import as_text

        put(as_text(done))


def _evaluated(settings: Settings, labels: str, train_until: int, plot: str | None) -> Evaluation:
    """Refuse what makes no sense, replay, count, draw."""
    import numpy as np

    from connectors.labels import read_labels

    capture, file = settings.run.paths[0], Path(settings.run.scores)
    if settings.capture.filter:
        raise UsageError("capture.filter: labels are of every packet; leave the filter out")
    if plot is not None:
        check_plot(plot)
    known = read_labels(labels)
    with announcing_compilation():
        # All kernels are compiled here, and counted in no speed.
        import flows.replay  # noqa: F401  imported for what it imports
        from connectors.capture_windows import windows_of
        from core.kernels import load_kernels
        from flows.evaluation import Evaluated, measure

        load_kernels()
        windows = windows_of(capture, settings.capture, settings.features.window_ns)
    check_lengths(known, windows, train_until, capture, labels)
    summary = carry_out(settings)
    if summary.interrupted or summary.packets_in != windows.packets:
        why = "was interrupted" if summary.interrupted else f"{capture} changed meanwhile"
        raise RunError(f"nothing is evaluated, for the replay {why}; start it again")
    scores = np.load(file, mmap_mode="r")
    what = Evaluated(Path(capture).name, scores, known, windows, train_until)
    done = measure(what, settings, summary)
    if plot is not None:
        from flows.score_page import draw

        draw(Path(plot), done, what)
    return done


def check_plot(plot: str) -> None:
    """Refuse a picture before the work it would be of.

    Raises:
        UsageError: It has no format we draw, or no folder.
    """
    path = Path(plot)
    if path.suffix.lower() not in (".html", ".svg"):
        raise UsageError(f"--plot: {plot!r} is neither .html nor .svg; name it one of these")
    if not path.parent.is_dir():
        raise UsageError(f"--plot: {path.parent} is no folder; make it, or name another")


def check_lengths(
    labels: NDArray[np.integer], windows: Windows, train_until: int, capture: str, name: str
) -> None:
    """Refuse labels of another capture, and to count from beyond its end.

    Raises:
        UsageError: They do not fit.
    """
    if labels.size != windows.packets:
        raise UsageError(
            f"{name}: {labels.size:,} labels for the {windows.packets:,} packets of {capture}; "
            "give one for each packet, in its order"
        )
    if not 0 <= train_until < labels.size:
        raise UsageError(
            f"--train-until: {train_until:,} is not within the {labels.size:,} packets; give 0 to "
            f"{labels.size - 1:,}"
        )
