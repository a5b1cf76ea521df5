"""What a person watches: samples, lines, the live table, the picture."""

import io
import json
import math
import sys
import time

import numpy as np
import pytest

from unending.cli import monitor
from unending.cli.monitor import Monitor, Sample
from unending.cli.pictures import plot, require_picture
from unending.core import Event, Meters, Rows, Text
from unending.core.errors import InputError, StorageError


def losses(values, **settings):
    return Event(Rows(np.array(values, dtype=np.float32)[:, None], ("loss",)), 0.0, 1.0, **settings)


def watched(count, watch=None, meters=None):
    """A monitor after `count` samples, ten losses each."""
    watch, meters = watch or Monitor("a title", 4096, None), meters or Meters()
    for _ in range(count):
        index = watch.rows // 10
        watch.see([losses(np.sin(np.arange(10) + 10 * index) + 2), Event(Text("x"), 0.0, 0.0)])
        meters.newest_in, meters.items = 10.0 * (index + 1), meters.items + 10
        meters.latency.add(0.02)
        watch.sample(meters, lambda: 100)
    return watch


def test_the_metric_is_the_perplexity_of_the_latest_losses():
    watch = watched(200)
    latest = (np.sin(np.arange(2000)) + 2).astype(np.float32)[-1024:]
    assert watch.rows == 2000
    assert watch.metric_name == "perplexity"
    assert watch.metric == pytest.approx(math.exp(latest.astype(float).mean()))
    assert [sample.position for sample in watch.samples] == [10.0 * n for n in range(1, 201)]
    assert watch.samples[-1].milliseconds == pytest.approx(2)


def test_other_rows_give_the_mean_of_their_first_column():
    watch = Monitor("a title", 1, None)
    assert watch.metric is None
    watch.see([Event(Rows(np.array([[1.0, 9.0], [3.0, 9.0]])), 0.0, 1.0)])
    watch.see([Event(Rows(np.array([[100.0]])), 0.0, 1.0, final=False)])
    assert (watch.metric, watch.metric_name, watch.unit, watch.rows) == (
        2.0,
        "mean of the first column",
        "row",
        2,
    )


@pytest.mark.parametrize(("apart", "rows"), [(1, 1024), (10, 102), (500, 20)])
def test_a_metric_with_a_name_is_a_mean_over_about_the_last_thousand_items(apart, rows):
    watch, meters = Monitor("a title", 1, None), Meters()
    for index in range(2000):
        watch.see([Event(Rows(np.array([[index, -1.0]]), ("return", "length")), 0.0, 1.0)])
        meters.newest_in = apart * (index + 1.0)
        watch.sample(meters, lambda: 100)
    assert watch.metric_name == "return"
    assert watch.metric == pytest.approx(1999 - (rows - 1) / 2)
    again = Monitor("a title", 1, None)
    again.restore(watch.record())
    assert (again.metric, again.metric_name) == (watch.metric, "return")


@pytest.mark.parametrize(
    ("first", "along", "unit"),
    [
        (("loss",), "characters", "token"),
        (("loss",), "rows", "row"),
        (("return",), "steps", "step"),
        ((), "characters", "row"),
        (None, "characters", "character"),
    ],
)
def test_what_the_work_is_counted_in(first, along, unit):
    watch, meters = Monitor("a title", 1, None, along), Meters()
    if first is not None:
        watch.see([Event(Rows(np.ones((3, 1)), first), 0.0, 1.0)])
    meters.items, meters.newest_in = 50, 50.0
    meters.latency.add(0.3)
    watch.sample(meters, lambda: 1)
    assert watch.unit == unit
    rows = unit == "token" or first == ()
    assert watch.samples[0].milliseconds == pytest.approx(100 if rows else 6)


def test_a_first_step_that_takes_long_is_explained_once(capsys, monkeypatch):
    monkeypatch.setattr(monitor, "_PATIENCE", 0.01)
    with Monitor("a title", 1, None) as watch:
        time.sleep(0.2)
        watch.sample(Meters(), lambda: 1)
    with Monitor("a title", 1, None) as watch:
        watch.sample(Meters(), lambda: 1)
    assert capsys.readouterr().err.count("the first step loads and compiles") == 1


@pytest.mark.parametrize("cut", [1, 57, 64, 150])
def test_a_restored_monitor_goes_on_as_if_never_cut(cut, monkeypatch):
    monkeypatch.setattr(monitor, "_KEPT", 64)
    whole = watched(200)
    second = Monitor("a title", 4096, None)
    second.restore(json.loads(json.dumps(watched(cut).record())))
    watched(200 - cut, second)
    expected, found = whole.record(), second.record()
    times = [[sample[1] for sample in record["samples"]] for record in (expected, found)]
    assert all(each > 0 for each in times[1])
    for record in (expected, found):
        record["samples"] = [[at, *rest] for at, _, *rest in record["samples"]]
    assert found == expected


def test_an_endless_stream_keeps_a_bounded_number_of_samples(monkeypatch):
    monkeypatch.setattr(monitor, "_KEPT", 64)
    watch = watched(1000)
    at = [sample.position for sample in watch.samples]
    assert 32 <= len(at) < 64
    assert len(set(np.diff(at))) == 1
    assert at[-1] > 9500
    assert len(watch.record()["recent"]) <= 1024


def test_rate_and_times_of_a_resumed_run_count_its_own_work(capsys):
    first = watched(100)
    second = Monitor("a title", 4096, None, "tokens")
    second.restore(first.record())
    meters = Meters()
    watched(1, second, meters)
    assert second.samples[-1].milliseconds == pytest.approx(2)
    assert "rate 500 tokens/s" in capsys.readouterr().err.splitlines()[-1]


def test_without_a_terminal_the_lines_are_plain_and_few(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    watch, meters = Monitor("a title", 3 * 2**20, 1000, "tokens"), Meters()
    with watch:
        watched(50, watch, meters)
    watch.close(meters)
    watch.close(meters)
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    lines = err.splitlines()
    assert len(lines) == 2
    assert "position 10 of 1,000 tokens (1 %)" in lines[0]
    assert lines[1].startswith("position 500 of 1,000 tokens (50 %)  rate 500 tokens/s")
    assert "state 100 bytes, bound 3.00 MiB" in lines[1]
    assert lines[1].split()[-2] == "perplexity"


def test_in_a_terminal_there_is_a_live_table(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    watch, meters = Monitor("a title", 4096, 1000), Meters()
    with watch:
        watched(3, watch, meters)
    watch.close(meters)
    shown = terminal.getvalue()
    assert "a title" in shown
    assert "30 of 1,000 items (3 %)" in shown
    assert shown.count("4.00 KiB") >= 1
    assert "…" not in shown


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert Monitor("a title", 1, None)._live is None


SAMPLES = [Sample(100.0 * n, 2.0 + n % 3, 2**20, 10.0 + n) for n in range(1, 30)]


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES[:1], [Sample(1.0, 0.0, 10, None)] * 3])
def test_a_picture_is_a_picture(samples, tmp_path):
    path = tmp_path / "run.png"
    require_picture(path)
    plot(
        path,
        {"a-system": samples, "a-peer": samples},
        unit="token",
        metric="perplexity",
        along="items",
        mark=1500,
    )
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_picture_that_cannot_be_is_refused_before_the_run(tmp_path):
    with pytest.raises(StorageError, match="no such folder"):
        require_picture(tmp_path / "nowhere" / "run.png")
    with pytest.raises(InputError, match=r"it may end in .*png"):
        require_picture(tmp_path / "run.docx")


def test_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(StorageError, match="cannot write the picture"):
        plot(tmp_path / "nowhere" / "run.png", {"a-system": SAMPLES})


def test_the_size_of_the_state_is_asked_only_where_it_is_kept_or_shown(monkeypatch):
    monkeypatch.setattr(monitor, "_KEPT", 64)
    watch, meters, asked = Monitor("stream", 1000, None, quiet=True), Meters(), []
    for position in range(10_000):
        meters.newest_in = float(position)
        watch.sample(meters, lambda: asked.append(1) or 7)
    assert len(asked) < 64 * 8
    assert {sample.nbytes for sample in watch.samples} == {7}
