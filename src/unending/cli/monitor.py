"""What a person watches while a stream runs: samples along the stream, and a live table of how it stands."""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from unending.core import Event, Meters, Rows, Text

__all__ = ["Monitor", "Sample", "readable", "size_unit"]

_RECENT, _FEWEST = 1024, 20
"""Rows, or items where rows are rarer, that the metric is a mean of; and the fewest rows."""
_KEPT = 4096
"""Samples at which every other one is dropped, and from then on half as many are taken."""
_FRAME, _LINE = 0.2, 5.0
"""Seconds between two looks of the live table, and between two lines."""
_PATIENCE = 3.0
"""Seconds that the first step may take before a person is told why."""


@dataclass(frozen=True)
class Sample:
    """How a stream stood at one position."""

    position: float
    """Stream time that has come in."""
    milliseconds: float
    """Compute time since the sample before for each of what the work is counted in; see `Monitor.unit`."""
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
        self._meters: Meters | None = None
        self._nbytes: Callable[[], int] = int
        self._spent = (0.0, 0)
        self._earlier_rows = self._earlier_answered = 0
        self._shown = ("", 0.0)
        console = Console(stderr=True)
        in_terminal = sys.stderr.isatty() and not console.is_dumb_terminal and not quiet
        self._quiet = quiet
        self._live = (
            Live(console=console, refresh_per_second=4, redirect_stdout=False) if in_terminal else None
        )
        self._waiting = threading.Timer(_PATIENCE, self._explain)
        self._waiting.daemon = True

    def __enter__(self) -> "Monitor":
        if self._live:
            self._live.start()
        self._waiting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.cancel()
        if self._live:
            if self._meters:
                self._live.update(self._table(self._meters))
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
        """What the work is counted in: a loss in reading is that of a token; rows without a name count as they are."""
        if self.answered:
            return "prompt"
        if self._counts_rows:
            return "token" if self._first else "row"
        return self._along.removesuffix("s")

    @property
    def _counts_rows(self) -> bool:
        """Whether work is counted in rows that came out; else it is in items that came in."""
        reading = self._first == "loss" and self._along in ("characters", "tokens")
        return self.rows > 0 and (reading or not self._first)

    def _done(self, meters: Meters) -> int:
        """Units of work in this run."""
        if self.answered:
            return self.answered - self._earlier_answered
        return self.rows - self._earlier_rows if self._counts_rows else meters.items

    def sample(self, meters: Meters, nbytes: Callable[[], int]) -> None:
        """Note how the stream stands, and show it. However long the stream, some thousand samples are kept.

        `nbytes` gives the size of the state; it is called only where that is kept or shown.
        """
        if self._first not in ("", "loss") and meters.newest_in:
            # Of what comes once an episode or a batch, the last thousand would say little of how things stand.
            self._window = min(_RECENT, max(_FEWEST, round(_RECENT * self.rows / meters.newest_in)))
        self._waiting.cancel()
        self._meters, self._nbytes = meters, nbytes
        self._since += 1
        if self._since >= self._stride:
            self._keep(meters)
        if self._live and time.monotonic() - self._shown[1] > _FRAME:
            self._live.update(self._table(meters))
            self._shown = ("", time.monotonic())
        elif not self._live and not self._quiet and time.monotonic() - self._shown[1] > _LINE:
            self._print(meters)

    def _keep(self, meters: Meters) -> None:
        now = meters.latency.seconds, self._done(meters)
        spent, done = now[0] - self._spent[0], now[1] - self._spent[1]
        self._since, self._spent = 0, now
        each = 1000 * spent / done if done else 0.0
        self.samples.append(Sample(meters.newest_in, each, self._nbytes(), self.metric))
        if len(self.samples) >= _KEPT:
            self.samples, self._stride = self.samples[1::2], 2 * self._stride

    def _explain(self) -> None:
        print("the first step loads and compiles what it needs; this can take a while, once", file=sys.stderr)

    def close(self, meters: Meters) -> None:
        """Show how things stand at the end."""
        if self._meters and not self._live:
            self._print(meters)

    def after(self, meters: Meters, nbytes: Callable[[], int], rows: int) -> None:
        """Note what came out when the stream was over, and show it if these were rows beyond the first `rows`."""
        if self.rows > rows:
            self.sample(meters, nbytes)
            self._print(meters)

    def _print(self, meters: Meters) -> None:
        line = "  ".join(f"{name} {value}" for name, value in self._figures(meters))
        if line != self._shown[0]:
            print(line, file=sys.stderr, flush=True)
        self._shown = (line, time.monotonic())

    def _figures(self, meters: Meters) -> list[tuple[str, str]]:
        percentiles = " / ".join(_short(1000 * meters.latency.percentile(p)) for p in (50, 95, 99))
        rate = self._done(meters) / meters.latency.seconds if meters.latency.seconds else 0.0
        position, metric = meters.newest_in, self.metric
        of, share = (
            (f" of {self._size:,}", f" ({min(100, 100 * position / self._size):.0f} %)")
            if self._size
            else ("", "")
        )
        figures = [
            ("position", f"{position:,.0f}{of} {self._along}{share}"),
            ("rate", f"{_short(rate)} {self.unit}s/s"),
            ("step p50 / p95 / p99", f"{percentiles} ms"),
            ("lag", f"{meters.lag:g} {self._along}"),
            ("state", f"{readable(self._nbytes())}, bound {readable(self._bound)}"),
        ]
        if self.answered:
            figures.insert(1, ("answered", f"{self.answered:,} prompts"))
        if metric is not None:
            figures.append((self.metric_name, f"{metric:.4g}"))
        return figures

    def _table(self, meters: Meters) -> Table:
        table = Table(title=self._title, box=None, show_header=False, title_justify="left", pad_edge=False)
        for name, value in self._figures(meters):
            table.add_row(name, value)
        return table


def size_unit(count: int) -> tuple[str, int]:
    """The unit that suits a number of bytes, and how many bytes it is."""
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next(((unit, factor) for unit, factor in units if count >= factor), ("bytes", 1))


def readable(count: int) -> str:
    """A number of bytes for a person."""
    unit, factor = size_unit(count)
    return f"{count / factor:.2f} {unit}" if factor > 1 else f"{count} bytes"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
