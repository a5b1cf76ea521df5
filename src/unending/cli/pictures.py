"""Pictures of samples along a stream."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

from unending.cli.monitor import Sample, size_unit
from unending.core.errors import InputError, MissingExtraError, StorageError

__all__ = ["plot", "require_picture", "require_writable"]


def require_writable(path: Path) -> None:
    """Raise `StorageError` now if no picture can be written there later."""
    if not path.parent.is_dir():
        raise StorageError(f"cannot write the picture {path}: no such folder")
    if path.is_dir():
        raise StorageError(f"cannot write the picture {path}: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise StorageError(f"cannot write the picture {path}: {error.strerror or error}") from error


def require_picture(path: Path) -> None:
    """Raise now what `plot` would raise at the end: `MissingExtraError`, `StorageError`, `InputError`."""
    pyplot = _pyplot()
    require_writable(path)
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

    unit_of_size, factor = size_unit(max(sample.nbytes for samples in series.values() for sample in samples))
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
