"""Head gates: how much each head needs the whole past, as a table, a file and a choice of heads."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from unending.core.errors import InputError, StorageError
from unending.core.random import philox

__all__ = ["PATTERNS", "HeadGates", "shipped_patterns"]

PATTERNS = Path(__file__).parents[3] / "patterns"
_TABLE, _CONFIG = "full_attention_heads.tsv", "config.json"
_NOISE = 1e-6
_INLINE = re.compile(r"[\d. /]*\d[\d. /]*")


def shipped_patterns() -> list[str]:
    """Names of the gate tables that come with the package."""
    return sorted(each.parent.name for each in PATTERNS.glob(f"*/{_TABLE}"))


def _table(text: str) -> np.ndarray:
    rows = [row.split() for row in text.split("/")]
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{text!r} is no table of gates: rows of equal length, divided by /") from error


@dataclass(frozen=True, eq=False)
class HeadGates:
    """One gate for each head of keys and values: 1 needs the whole past, 0 only sinks and recent tokens.

    Parameters
    ----------
    values
        float64 `[layers, kv_heads]`; what lies outside 0 to 1 is clipped, and the array is not kept.
    sink, recent
        tokens that a streaming head saw when the gates were found.
    about
        what else `config.json` says.

    Raises
    ------
    InputError
        if the table is no table of finite numbers, or a size makes no sense.
    """

    values: np.ndarray
    sink: int = 128
    recent: int = 256
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            raise InputError(
                f"gates are a table [layers, kv_heads] of finite numbers, got shape {values.shape}"
            )
        if self.sink < 0 or self.recent < 1:
            raise InputError(f"sink={self.sink}, recent={self.recent}: accepted are 0 or more, and 1 or more")
        values = values.clip(0, 1)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def save(self, folder: str | Path) -> Path:
        """Write `full_attention_heads.tsv` and `config.json`, the form of the authors' own tables."""
        target = Path(folder)
        config = {**self.about, "sink_size": self.sink, "recent_size": self.recent}
        try:
            target.mkdir(parents=True, exist_ok=True)
            np.savetxt(target / _TABLE, self.values, delimiter="\t")
            (target / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise StorageError(f"cannot write to {target}: {error.strerror or error}") from error
        return target

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Read a shipped table by its name, or a folder as `save` and the authors write it.

        A table of few heads may stand in place of the name: `"1 0 / 0.5 0"` has two layers of two heads.

        Raises
        ------
        InputError
            if there is none, or its files are damaged.
        """
        shipped = isinstance(name, str) and name in shipped_patterns()
        folder = PATTERNS / name if shipped else Path(name).expanduser()
        if not (folder / _TABLE).is_file():
            if _INLINE.fullmatch(str(name)):
                return cls(_table(str(name)))
            raise InputError(
                f"no gates {str(name)!r}: known are {', '.join(shipped_patterns()) or 'none'},"
                f" folders with {_TABLE} and {_CONFIG}, and tables like '1 0 / 0.5 0'"
            )
        try:
            values = np.loadtxt(folder / _TABLE, dtype=np.float64, delimiter="\t", ndmin=2)
            config = json.loads((folder / _CONFIG).read_text("utf-8"))
            sink, recent = (int(config.pop(each)) for each in ("sink_size", "recent_size"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder} holds no readable gates: {type(error).__name__} {reason}") from error
        return cls(values, sink, recent, config)

    def binarize(
        self, sparsity: float | None = None, threshold: float | None = None, seed: int = 0
    ) -> np.ndarray:
        """Which heads are full, bool `[layers, kv_heads]`.

        Parameters
        ----------
        sparsity
            share of streaming heads over all layers together: a head is full if its gate is at or above that
            quantile. 0 or less makes all full, 1 or more none. Without either argument, 0.5.
        threshold
            a fixed gate instead.
        seed
            of the noise, below 1e-6, that breaks ties.

        Raises
        ------
        InputError
            if both are given, or one is no number.
        """
        if sparsity is not None and threshold is not None:
            raise InputError("give a sparsity or a threshold, not both")
        wanted = threshold if threshold is not None else 0.5 if sparsity is None else sparsity
        if not np.isfinite(wanted):
            raise InputError(f"a sparsity or threshold is a finite number, got {wanted}")
        if threshold is not None:
            return self.values >= threshold
        if wanted <= 0 or wanted >= 1:
            return np.full(self.values.shape, wanted <= 0)
        noisy = self.values + _NOISE * philox(seed, 0).random(self.values.shape)
        return noisy >= np.quantile(noisy, wanted)
