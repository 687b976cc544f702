"""`penstock evaluate`: the scores of a replay against labels, and what it refuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from connectors.capture_windows import Windows
from core.ranking import separate
from flows import cli
from flows.evaluation import Evaluated, false_alarms, first_scored, percent
from flows.score_plot import HIGH, Scale, columns_of, svg
from flows.summary import Summary
from tests.flows.runs import Done, replayed

SETTINGS = "[anomaly]\nwarm_rows = 60\n"


@pytest.fixture(scope="module")
def told(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Replay the capture; return the scores of its packets, and what the replay did."""
    path = tmp_path_factory.mktemp("scores") / "scores.npy"
    return path, replayed(capture, run={"scores": str(path)}, anomaly={"warm_rows": 60})


@pytest.fixture
def here(
    tmp_path: Path, capture: Path, told: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Work in a folder with a.pcap, labels of it, and a model that is soon warm."""
    (tmp_path / "a.pcap").symlink_to(capture)
    (tmp_path / "penstock.toml").write_text(SETTINGS)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    scores = np.load(told[0])
    labels = np.zeros(scores.size, np.uint8)
    labels[scores > np.nanquantile(scores, 0.9)] = 2
    labels[5::97] = 1
    np.save("labels.npy", labels)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Call the entry point in this process."""
    sys.argv = ["penstock", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    seen = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, seen.out, seen.err)


def test_figures_are_those_of_the_scores_of_a_replay(
    here: Path, told: tuple[Path, Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is counted is what `replay --scores` writes, from the first score or a packet on."""
    scores, labels = np.load(told[0]), np.load("labels.npy")
    first = first_scored(scores)
    assert 0 < first < 1000
    for until in (0, 1000):
        begin = until or first
        wanted = separate(scores[begin:], labels[begin:], (0.01, 0.001))
        asked = ("a.pcap", "labels.npy", "--train-until", str(until), "--json")
        found = ask(capsys, "evaluate", *asked)
        assert (found.code, found.err) == (0, "")
        said = found.summary
        assert said["counted_from"] == begin
        assert said["counted"] == scores.size - begin
        assert said["unscored"] == np.isnan(scores[begin:]).mean() > 0
        for each, want in zip(said["attacks"], wanted, strict=True):
            assert (each["label"], each["packets"]) == (want.label, want.packets)
            assert each["auc"] == want.auc
            assert [at["tpr"] for at in each["at"]] == [at.tpr for at in want.at]
        assert said["findings"] == told[1].findings
        assert said["packets_per_s"] > 0


def test_people_get_tables_and_a_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page needs nothing but itself, and nothing is left beside it."""
    before = {path.name for path in here.iterdir()}
    found = ask(capsys, "evaluate", "a.pcap", "labels.npy", "--plot", "p.html")
    assert (found.code, found.err) == (0, "")
    assert re.search(r"label 2 .* 1\.0000|label 2 .*0\.9", found.out)
    assert "TPR at 0.1 %" in found.out
    assert {path.name for path in here.iterdir()} - before == {"p.html"}
    page = (here / "p.html").read_text()
    assert not re.search(r"<script|href=|src=|url\(|@import", page)
    root = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    texts = {"".join(each.itertext()) for each in root.iter() if each.tag.endswith("text")}
    assert {"benign", "label 1", "label 2", "no score", "1 % FPR", "0.1 % FPR"} <= texts


REFUSED = [
    (["a.pcap", "short.npy"], "short.npy: 3 labels for the "),
    (["a.pcap", "float.npy"], "float.npy: holds float64, not integers; write it by numpy.save"),
    (["a.pcap", "none.npy"], "none.npy: no such file; name the .npy file"),
    (["a.pcap", "labels.npy", "--train-until", "-1"], "--train-until: -1 is not within the "),
    (["a.pcap", "labels.npy", "--train-until", "999999"], "--train-until: 999,999 is not within"),
    (["a.pcap", "labels.npy", "--train-until", "x"], "Invalid value for '--train-until'"),
    (["a.pcap", "labels.npy", "--plot", "p.png"], "--plot: 'p.png' is neither .html nor .svg"),
    (["a.pcap", "labels.npy", "--plot", "no/p.svg"], "--plot: no is no folder; make it"),
    (["a.pcap", "labels.npy", "--by", "hots"], 'capture.by: "hots" is refused'),
    (["empty", "labels.npy"], "empty: is no file; name one capture"),
    (["-", "labels.npy"], "-: is no file; name one capture"),
    (["kafka://h:1/t", "labels.npy"], "kafka://h:1/t: is no file; name one capture"),
    (["a.pcap", "labels.npy", "--config", "filter.toml"], "capture.filter: labels are of every"),
    (["a.pcap"], "Missing argument 'LABELS.npy'; see penstock evaluate --help"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_makes_no_sense_is_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Refused before the capture is replayed, with the cause and a cure."""
    np.save("short.npy", np.array([0, 1, 0]))
    np.save("float.npy", np.array([0.0, 1.0]))
    (here / "filter.toml").write_text("[capture]\nfilter = 'udp'\n")
    done = ask(capsys, "evaluate", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.line.startswith("penstock: ")
    assert said in done.line


def test_nothing_to_count_is_an_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No score at all, or labels of one class where it is counted: exit code 1 and one line."""
    (here / "penstock.toml").write_text("[anomaly]\nwarm_rows = 100000\n")
    done = ask(capsys, "evaluate", "a.pcap", "labels.npy")
    assert (done.code, done.out) == (1, "")
    assert "no packet has a score" in done.line
    (here / "penstock.toml").write_text(SETTINGS)
    labels = np.zeros(np.load("labels.npy").size, np.int64)
    labels[3] = 1
    np.save("early.npy", labels)
    done = ask(capsys, "evaluate", "a.pcap", "early.npy")
    assert (done.code, done.out) == (1, "")
    assert "are all benign; count from an earlier one" in done.line


def evaluated(scores: list[float], labels: list[int], windows: list[int]) -> Evaluated:
    begin = np.array(windows)
    times = Windows(len(scores), begin, np.arange(begin.size) * 10**9)
    return Evaluated("a", np.array(scores, np.float32), np.array(labels), times, 0)


def test_a_pixel_shows_the_highest_score_of_each_kind() -> None:
    """By hand: eight packets in four columns; nothing that was highest is hidden."""
    nan = float("nan")
    what = evaluated([1, 2, 3, 9, nan, 4, nan, nan], [0, 0, 0, 5, 0, 5, 0, 0], [0, 4])
    found = columns_of(what, 4)
    assert found.kinds == [0, 5]
    np.testing.assert_equal(found.highest, [[2, 3, nan, nan], [nan, 9, 4, nan]])
    assert found.present.tolist() == [[True] * 4, [False, True, True, False]]
    assert found.unscored.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "scores",
    [[0.0], [5.0, 5.0], [1e-9, 1.0, 1e6], [-3.0, 2.0], [0.0, 1.0, 1e5], [np.inf, np.nan], [1e30]],
)
def test_every_score_has_its_place(scores: list[float]) -> None:
    """Linear or logarithmic, higher scores are not drawn lower, and nothing lies outside."""
    scale = Scale(np.array(scores, np.float64))
    places = [scale.y(score) for score in sorted(s for s in scores if not np.isnan(s))]
    assert places == sorted(places, reverse=True)
    assert all(0 <= place <= HIGH for place in places)
    assert 2 <= len(scale.ticks) <= 9
    labels = [0] * len(scores) + [1]
    ET.fromstring(svg(evaluated([*scores, 1.0], labels, [0]), 0, ()))


def test_windows_are_judged_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """However a capture is cut into portions, a rate comes to the same."""
    rng = np.random.default_rng(3)
    begin = np.unique(rng.integers(0, 900, 60)).tolist()
    what = evaluated(rng.exponential(size=900).tolist(), [0, 1] * 450, [0, *begin[1:]])
    whole = false_alarms(what, 10, 0.02)
    assert [rate.configured for rate in whole] == [0.02, 0.01, 0.005, 0.001, 0.0001]
    monkeypatch.setattr("flows.evaluation._CHUNK", 50)
    assert false_alarms(what, 10, 0.02) == whole


def test_shares_are_not_rounded_to_all_or_nothing() -> None:
    """Three digits, and more where they would say 0 or 100."""
    shares = (0.0, 1.0, 0.8667, 0.99999, 0.000012, 1e-9, 1 - 1e-9, float("nan"))
    assert [percent(share) for share in shares] == [
        "0.00 %", "100.00 %", "86.67 %", "99.999 %", "0.001 %", "< 0.0001 %", "> 99.9999 %", "none",
    ]  # fmt: skip
