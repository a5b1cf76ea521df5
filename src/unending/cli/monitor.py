"""What a person watches while a stream runs: samples along the stream, a live table, a picture."""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from unending.core import Event, Meters, Rows, Text
from unending.core.errors import InputError, MissingExtraError, StorageError

__all__ = ["Monitor", "Sample", "plot", "readable", "require_picture"]

_RECENT, _FEWEST = 1024, 20
"""Rows, or items where rows are rarer, that the metric is a mean of; and the fewest rows."""
_KEPT = 4096
"""Samples at which every other one is dropped, and from then on half as many are taken."""


@dataclass(frozen=True)
class Sample:
    """How a stream stood at one position."""

    position: float
    """Stream time that has come in."""
    milliseconds: float
    """Compute time an output row (or an input item, where no rows come out) since the sample before."""
    nbytes: int
    metric: float | None
    """Perplexity of the last 1,024 losses, or the recent mean of the first column; `None` before the first row."""


class Monitor:
    """Collects samples of one session and shows them on standard error: a live table in a terminal, else lines.

    A quiet one shows them at the end alone, so that text can come out on the same terminal.
    """

    def __init__(
        self, title: str, bound: int, size: int | None, along: str = "items", *, quiet: bool = False
    ) -> None:
        self.samples: list[Sample] = []
        self.rows = 0
        self._title, self._bound, self._size, self._along = title, bound, size, along
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._window = _RECENT
        self._first = ""
        """Name of the first column of the rows that come out."""
        self.answered = 0
        self._early: set[float] = set()
        self._answering = -1.0
        self._stride, self._since = 1, 0
        self._latest: Sample | None = None
        self._spent = (0.0, 0)
        self._earlier_rows = self._earlier_answered = 0
        self._shown = ("", 0.0)
        console = Console(stderr=True)
        in_terminal = sys.stderr.isatty() and not console.is_dumb_terminal and not quiet
        self._quiet = quiet
        self._live = (
            Live(console=console, refresh_per_second=4, redirect_stdout=False) if in_terminal else None
        )

    def __enter__(self) -> "Monitor":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def record(self) -> dict[str, Any]:
        """All that a later run needs to go on as if it were this one, as plain values."""
        return {
            "rows": self.rows,
            "answered": self.answered,
            "first": self._first,
            "window": self._window,
            "recent": list(self._recent),
            "stride": self._stride,
            "since": self._since,
            "samples": [list(asdict(sample).values()) for sample in self.samples],
        }

    def restore(self, record: dict[str, Any]) -> None:
        """Go on from the record of an earlier run."""
        self.rows = self._earlier_rows = record["rows"]
        self.answered = self._earlier_answered = record.get("answered", 0)
        self._stride, self._since = record["stride"], record["since"]
        self._first = record.get("first", "loss" if record.get("loss") else "")
        self._window = record.get("window", _RECENT)
        self._recent.extend(record["recent"])
        self.samples = [Sample(*values) for values in record["samples"]]

    def see(self, events: Iterable[Event]) -> None:
        """Take note of outputs."""
        for event in events:
            if isinstance(event.data, Rows) and event.final:
                self._first = event.data.names[0] if event.data.names else ""
                self.rows += len(event.data)
                self._recent.extend(event.data.values[:, 0].tolist())
            elif isinstance(event.data, Text) and self._along == "prompts":
                self._count_answer(event)

    def _count_answer(self, event: Event) -> None:
        """An answer may come early and not final, or in pieces of one time; it counts once."""
        known = event.t_end in self._early or event.t_end == self._answering
        self.answered += not known
        if event.final:
            self._early.discard(event.t_end)
            self._answering = event.t_end
        else:
            self._early.add(event.t_end)

    @property
    def metric(self) -> float | None:
        """See `Sample.metric`."""
        if not self._recent:
            return None
        newest = list(self._recent)[-self._window :]
        mean = sum(newest) / len(newest)
        return math.exp(min(mean, 700)) if self._first == "loss" else mean

    @property
    def metric_name(self) -> str:
        """What the metric is."""
        return "perplexity" if self._first == "loss" else self._first or "mean of the first column"

    @property
    def unit(self) -> str:
        """What the work is counted in: a loss is that of a token."""
        if self.answered:
            return "prompt"
        return "token" if self._first == "loss" else "row" if self.rows else "item"

    def _done(self, meters: Meters) -> int:
        """Units of work in this run."""
        if self.answered:
            return self.answered - self._earlier_answered
        return self.rows - self._earlier_rows if self.rows else meters.items

    def sample(self, meters: Meters, nbytes: int) -> None:
        """Note how the stream stands, and show it. However long the stream, some thousand samples are kept."""
        if self._first not in ("", "loss") and meters.newest_in:
            # Of what comes once an episode or a batch, the last thousand would say little of how things stand.
            self._window = min(_RECENT, max(_FEWEST, round(_RECENT * self.rows / meters.newest_in)))
        before = self._spent
        spent, done = meters.latency.seconds - before[0], self._done(meters) - before[1]
        each = 1000 * spent / done if done else 0.0
        self._latest = Sample(meters.newest_in, each, nbytes, self.metric)
        self._since += 1
        if self._since >= self._stride:
            self._since, self._spent = 0, (meters.latency.seconds, self._done(meters))
            self.samples.append(self._latest)
        if len(self.samples) >= _KEPT:
            self.samples, self._stride = self.samples[1::2], 2 * self._stride
        if self._live:
            self._live.update(self._table(meters))
        elif not self._quiet and time.monotonic() - self._shown[1] > 5:
            self._print(meters)

    def close(self, meters: Meters) -> None:
        """Show how things stand at the end."""
        if self._latest and not self._live:
            self._print(meters)

    def _print(self, meters: Meters) -> None:
        line = "  ".join(f"{name} {value}" for name, value in self._figures(meters))
        if line != self._shown[0]:
            print(line, file=sys.stderr, flush=True)
        self._shown = (line, time.monotonic())

    def _figures(self, meters: Meters) -> list[tuple[str, str]]:
        assert self._latest
        percentiles = " / ".join(_short(1000 * meters.latency.percentile(p)) for p in (50, 95, 99))
        rate = self._done(meters) / meters.latency.seconds if meters.latency.seconds else 0.0
        position = self._latest.position
        of, share = (
            (f" of {self._size:,}", f" ({100 * position / self._size:.0f} %)") if self._size else ("", "")
        )
        figures = [
            ("position", f"{position:,.0f}{of} {self._along}{share}"),
            ("rate", f"{_short(rate)} {self.unit}s/s"),
            ("step p50 / p95 / p99", f"{percentiles} ms"),
            ("lag", f"{meters.lag:g} {self._along}"),
            ("state", f"{readable(self._latest.nbytes)}, bound {readable(self._bound)}"),
        ]
        if self.answered:
            figures.insert(1, ("answered", f"{self.answered:,} prompts"))
        if self._latest.metric is not None:
            figures.append((self.metric_name, f"{self._latest.metric:.4g}"))
        return figures

    def _table(self, meters: Meters) -> Table:
        table = Table(title=self._title, box=None, show_header=False, title_justify="left", pad_edge=False)
        for name, value in self._figures(meters):
            table.add_row(name, value)
        return table


def _size_unit(count: int) -> tuple[str, int]:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next(((unit, factor) for unit, factor in units if count >= factor), ("bytes", 1))


def readable(count: int) -> str:
    """A number of bytes for a person."""
    unit, factor = _size_unit(count)
    return f"{count / factor:.2f} {unit}" if factor > 1 else f"{count} bytes"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def require_picture(path: Path) -> None:
    """Raise now what `plot` would raise at the end: `MissingExtraError`, `StorageError`, `InputError`."""
    pyplot = _pyplot()
    if not path.parent.is_dir():
        raise StorageError(f"cannot write the picture {path}: no such folder")
    endings = sorted(pyplot.figure().canvas.get_supported_filetypes())
    pyplot.close()
    if path.suffix.lstrip(".").lower() not in endings:
        raise InputError(f"{path} is no name of a picture; it may end in {', '.join(endings)}")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: pip install 'unending[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(
    path: str | os.PathLike[str],
    series: dict[str, list[Sample]],
    *,
    unit: str = "item",
    metric: str = "",
    along: str = "",
    mark: float | None = None,
) -> None:
    """Draw memory, time and metric against stream position, a curve for each series.

    `unit` is what the time is counted in, `along` what the position is; `mark` is a position to mark.

    Raises
    ------
    MissingExtraError
        if matplotlib is absent.
    StorageError
        if the picture cannot be written.
    """
    pyplot = _pyplot()
    from matplotlib import ticker

    unit_of_size, factor = _size_unit(max(sample.nbytes for samples in series.values() for sample in samples))
    with_metric = any(sample.metric is not None for samples in series.values() for sample in samples)
    figure, axes = pyplot.subplots(
        1, 3 if with_metric else 2, figsize=(13.5 if with_metric else 9, 4), layout="constrained"
    )
    for name, samples in series.items():
        at = [sample.position for sample in samples]
        style = {"label": name, "linewidth": 1.8, "marker": "o" if len(at) == 1 else None}
        axes[0].plot(at, [sample.nbytes / factor for sample in samples], **style)
        axes[1].plot(at, [sample.milliseconds for sample in samples], **style)
        if with_metric:
            axes[2].plot(
                at, [sample.metric if sample.metric is not None else math.nan for sample in samples], **style
            )
    titles = [f"memory of the stream, {unit_of_size}", f"compute time a {unit}, ms", metric or "metric"]
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(f"stream position, {along}" if along else "stream position")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(6))
        axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
        if mark is not None:
            axis.axvline(mark, color="gray", linestyle=":", linewidth=1)
    for axis in axes[:2]:
        axis.set_ylim(bottom=0)
    if with_metric and metric == "perplexity":
        axes[-1].set_yscale("log")
        low, high = axes[-1].get_ylim()
        axes[-1].yaxis.set_major_formatter(ticker.ScalarFormatter())
        if high < 20 * low:  # less than a decade or so would be left without numbers
            axes[-1].yaxis.set_minor_formatter(ticker.ScalarFormatter())
        else:
            axes[-1].yaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].legend(frameon=False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write the picture {path}: {error}") from error
    finally:
        pyplot.close(figure)
