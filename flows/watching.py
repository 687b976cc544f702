"""What a run watches with: over devices, over hosts, or not at all; and the evidence it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from connectors.evidence import Evidence
from models.device_watch import DeviceWatch
from models.host_watch import HostWatch

if TYPE_CHECKING:
    from core.names import Names
    from flows.run import Run
    from models.watch import Watch


def make_watch(run: Run, names: Names | None) -> Watch | None:
    """Return the watch of one shard, if the run has any.

    Args:
        run: What the steps share.
        names: Texts of keys that are hashes, where any are.
    """
    s, f = run.settings.detect, run.settings.features
    if not s.enabled:
        return None
    if run.settings.capture.by == "host":
        # A flow is no packet: it has no order of calls and answers.
        if run.reads_records:
            return None
        return HostWatch(s, window_ns=f.window_ns, keys_max=f.keys_max, seed=run.seed)
    has_seq = run.settings.capture.format == "frame"
    return DeviceWatch(
        s, window_ns=f.window_ns, keys_max=f.keys_max, seed=run.seed, has_seq=has_seq, names=names
    )


def open_evidence(run: Run) -> Evidence:
    """Return the folder of evidence that the settings name.

    Raises:
        SinkError: It cannot be written.
    """
    s = run.settings.findings
    return Evidence(
        Path(run.settings.run.evidence), packets_max=s.evidence_packets,
        bytes_max=s.evidence_bytes, total_bytes_max=s.evidence_total_bytes,
        ring_bytes=s.evidence_ring_bytes, notify=run.notify,
    )  # fmt: skip
