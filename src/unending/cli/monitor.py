"""What a person watches while a stream runs: samples along the stream, a live table, a picture."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from unending.core import Event, Meters, Rows
from unending.core.errors import MissingExtraError, StorageError

__all__ = ["Monitor", "Sample", "plot"]


@dataclass(frozen=True)
class Sample:
    """How a stream stood at one position."""

    position: float
    """Stream time that has come in."""
    milliseconds: float
    """Compute time an output row (or an input item, where no rows come out) since the sample before."""
    nbytes: int
    metric: float | None
    """Perplexity of the last 1,024 losses, or the mean of the first column; `None` before the first row."""


class Monitor:
    """Collects samples of one session and shows them; in a terminal as a live table, else as lines."""

    def __init__(self, title: str, bound: int, size: int | None, *, quiet: bool = False) -> None:
        self.samples: list[Sample] = []
        self.rows = 0
        self._recent: deque[float] = deque(maxlen=1024)
        self._loss = False
        self._title, self._bound, self._size = title, bound, size
        self._console = Console(stderr=True)
        self._live = (
            None
            if quiet or not self._console.is_terminal
            else Live(console=self._console, refresh_per_second=4)
        )
        self._quiet = quiet
        self._spent = (0.0, 0)
        self._printed = 0.0
        self._file: Any = None

    def __enter__(self) -> "Monitor":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self._file:
            self._file.close()

    def keep(self, path: Path, until: float) -> None:
        """Append samples to a file of JSON lines; those of an earlier run up to stream time `until` count as ours."""
        if path.is_file():
            lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            self.samples = [Sample(**line) for line in lines if line["position"] <= until]
        try:
            path.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in self.samples))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for as long as the monitor
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def see(self, events: Iterable[Event]) -> None:
        """Take note of outputs."""
        for event in events:
            if isinstance(event.data, Rows) and event.final:
                self._loss = event.data.names[:1] == ("loss",)
                self.rows += len(event.data)
                self._recent.extend(event.data.values[:, 0].tolist())

    @property
    def metric(self) -> float | None:
        """See `Sample.metric`."""
        if not self._recent:
            return None
        mean = sum(self._recent) / len(self._recent)
        return math.exp(min(mean, 700)) if self._loss else mean

    @property
    def metric_name(self) -> str:
        """What the metric is."""
        return "perplexity" if self._loss else "mean of the first column"

    def sample(self, meters: Meters, nbytes: int) -> Sample:
        """Note how the stream stands, and show it."""
        seconds, units = meters.latency.seconds, self.rows or meters.items
        spent, done = seconds - self._spent[0], units - self._spent[1]
        self._spent = (seconds, units)
        each = 1000 * spent / done if done else 0.0
        self.samples.append(Sample(meters.newest_in, each, nbytes, self.metric))
        if self._file:
            self._file.write(json.dumps(asdict(self.samples[-1])) + "\n")
            self._file.flush()
        self._show(meters)
        return self.samples[-1]

    def _show(self, meters: Meters) -> None:
        if self._live:
            self._live.update(self._table(meters))
        elif not self._quiet and time.monotonic() - self._printed > 5:
            self._printed = time.monotonic()
            self._console.print(self.line(meters), highlight=False, soft_wrap=True)

    def line(self, meters: Meters) -> str:
        """The state of things in one line."""
        return "  ".join(f"{name} {value}" for name, value in self._figures(meters))

    def _figures(self, meters: Meters) -> list[tuple[str, str]]:
        last = self.samples[-1]
        percentiles = "/".join(_short(1000 * meters.latency.percentile(p)) for p in (50, 95, 99))
        units = self.rows or meters.items
        rate = units / meters.latency.seconds if meters.latency.seconds else 0.0
        share = f" ({100 * last.position / self._size:.0f} %)" if self._size else ""
        figures = [
            ("position", f"{last.position:,.0f}{share}"),
            ("rate", f"{rate:,.1f}/s"),
            ("ms a step p50/p95/p99", percentiles),
            ("lag", f"{meters.lag:g}"),
            ("state", f"{last.nbytes / 2**20:.2f} of {self._bound / 2**20:.2f} MiB"),
        ]
        if last.metric is not None:
            figures.append(("perplexity" if self._loss else "mean", f"{last.metric:.3f}"))
        return figures

    def _table(self, meters: Meters) -> Table:
        table = Table(title=self._title, box=None, show_header=False, title_justify="left", pad_edge=False)
        for name, value in self._figures(meters):
            table.add_row(name, value)
        return table


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def plot(
    path: str | os.PathLike[str],
    series: dict[str, list[Sample]],
    *,
    unit: str = "item",
    metric: str = "",
    mark: float | None = None,
) -> None:
    """Draw memory, time and metric against stream position, a curve for each series; `mark` is a position to mark.

    Raises
    ------
    MissingExtraError
        if matplotlib is absent.
    StorageError
        if the picture cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: pip install 'unending[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    with_metric = any(sample.metric is not None for samples in series.values() for sample in samples)
    figure, axes = pyplot.subplots(
        1, 3 if with_metric else 2, figsize=(13.5 if with_metric else 9, 4), layout="constrained"
    )
    for name, samples in series.items():
        at = [sample.position for sample in samples]
        style = {"label": name, "linewidth": 1.8}
        axes[0].plot(at, [sample.nbytes / 2**20 for sample in samples], **style)
        axes[1].plot(at, [sample.milliseconds for sample in samples], **style)
        if with_metric:
            axes[2].plot(
                at, [sample.metric if sample.metric is not None else math.nan for sample in samples], **style
            )
    titles = ["memory of the stream, MiB", f"compute time a {unit}, ms", metric or "metric"]
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("stream position")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if mark is not None:
            axis.axvline(mark, color="gray", linestyle=":", linewidth=1)
    for axis in axes[:2]:
        axis.set_ylim(bottom=0)
    if metric == "perplexity":
        axes[-1].set_yscale("log")
        for which in (axes[-1].yaxis.set_major_formatter, axes[-1].yaxis.set_minor_formatter):
            which(ticker.ScalarFormatter())
    axes[0].legend(frameon=False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write the picture {path}: {error}") from error
    finally:
        pyplot.close(figure)
