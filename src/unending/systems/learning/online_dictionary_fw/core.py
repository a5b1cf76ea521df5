"""Online orthogonal dictionary learning by Frank-Wolfe as an explicit state and functions on it."""

from dataclasses import dataclass, replace

import numpy as np

from unending.core import nbytes, state
from unending.core.blocks import Remainder, feed, flush, remainder
from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.numerics.frank_wolfe import POLAR_METHODS, frank_wolfe_gap, polar, spectral_lmo
from unending.parts.numerics.schedules import PowerSchedule

__all__ = ["DictionarySettings", "DictionaryState", "spikiness"]

LARGEST, LEAST = 1e100, 1e-100
"""Norms whose p-th power is above the first are refused; below the second a row is taken for zero."""
_EIGENVALUE_FLOOR = 1e-10


@state
class DictionaryState:
    """All that is known: matrices of N x N, and rows that wait for their minibatch."""

    dictionary: np.ndarray
    """`[N, N]`, D inside the unit spectral ball; its polar factor is the dictionary."""
    gradient: np.ndarray
    """`[N, N]`, G, the running average of gradients."""
    moment: np.ndarray
    """`[N, N]`, mean of `y y^H`; `[0, 0]` without preconditioning."""
    whitening: np.ndarray
    """`[N, N]`, the moment to the power -1/2 as of the last doubling of the samples; `[0, 0]` likewise."""
    gap: np.ndarray
    """float64 `[1]`, the Frank-Wolfe gap at the newest step."""
    waiting: Remainder
    steps: int
    samples: int
    seed: int


@dataclass(frozen=True)
class DictionarySettings:
    """How the dictionary is learned (Xue and Lau 2021, arXiv 2103.01484).

    Parameters
    ----------
    p
        the norm whose p-th power is maximised, above 2.
    batch_size
        rows of one step.
    rho_exponent, gamma_exponent
        the gradient average moves by `t ** -rho_exponent`, the dictionary by `t ** -gamma_exponent`.
    rho_min, gamma_min
        floors of the two, for data that drift; 0 is the paper's vanishing schedule.
    polar
        `svd` or `newton_schulz`.
    start
        `random`: an orthogonal matrix uniformly drawn; `data`: the polar factor of the first minibatch.
    precondition
        rows of burn-in after which rows are multiplied by their second moment to the power -1/2 (for complete
        dictionaries that are not orthogonal), and the moment's power is taken anew whenever the rows double. No step is
        made during the burn-in. 0 switches it off.
    dtype
        `float64` or `complex128`.

    Raises
    ------
    InputError
        for a value outside what is said above.
    """

    p: float = 3.0
    batch_size: int = 1
    rho_exponent: float = 0.5
    gamma_exponent: float = 0.75
    rho_min: float = 0.0
    gamma_min: float = 0.0
    polar: str = "svd"
    start: str = "random"
    precondition: int = 0
    dtype: str = "float64"

    def __post_init__(self) -> None:
        if not 2 < self.p <= 16:
            raise InputError(
                f"p is {self.p}, accepted is above 2 and up to 16: the ball's extreme points are orthogonal"
            )
        if self.batch_size < 1 or self.precondition < 0:
            raise InputError("batch_size is 1 or more, precondition 0 or more rows")
        for name, accepted in (
            ("polar", POLAR_METHODS),
            ("start", ("random", "data")),
            ("dtype", ("float64", "complex128")),
        ):
            if getattr(self, name) not in accepted:
                raise InputError(f"{name} is {getattr(self, name)!r}, accepted are {' and '.join(accepted)}")
        _ = self.rho, self.gamma

    @property
    def rho(self) -> PowerSchedule:
        """Steps of the gradient average."""
        return PowerSchedule(self.rho_exponent, self.rho_min)

    @property
    def gamma(self) -> PowerSchedule:
        """Steps of the dictionary."""
        return PowerSchedule(self.gamma_exponent, self.gamma_min)

    def init(self, width: int, seed: int = 0) -> DictionaryState:
        """Before the first row of `width` numbers."""
        if width < 1:
            raise InputError(f"rows have {width} columns, accepted is 1 or more")
        side = width if self.precondition else 0
        return DictionaryState(
            random_orthogonal(width, seed, self.dtype),
            np.zeros((width, width), self.dtype),
            np.zeros((side, side), self.dtype),
            np.eye(side, dtype=self.dtype),
            np.zeros(1),
            remainder(self.batch_size, (width,), np.dtype(self.dtype)),
            steps=0,
            samples=0,
            seed=seed,
        )

    def update(self, old: DictionaryState, rows: np.ndarray) -> DictionaryState:
        """Take rows `[n, N]`; those that fill no minibatch wait. Any cutting into calls gives the same bits.

        Raises
        ------
        InputError
            if a row is not finite or too large for its p-th power; nothing has changed then.
        """
        new, blocks = self.feed(old, rows)
        for block in blocks:
            new = self.learn(new, block)
        return new

    def feed(
        self, old: DictionaryState, rows: np.ndarray, first: int = 0
    ) -> tuple[DictionaryState, list[np.ndarray]]:
        """Add rows to those that wait; give out the minibatches that became full. Raises as `update`.

        `first` is the place of the first row, for the message.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            sizes = np.linalg.norm(rows, axis=1) ** self.p
        if not (sizes <= LARGEST).all():
            where = int(np.flatnonzero(~(sizes <= LARGEST))[0])
            raise InputError(
                f"row {first + where} is not finite or its norm to the power {self.p:g} is above 1e100; smaller finite"
                " rows are accepted"
            )
        waiting, blocks = feed(old.waiting, rows)
        return replace(old, waiting=waiting), blocks

    def learn(self, old: DictionaryState, block: np.ndarray) -> DictionaryState:
        """One Frank-Wolfe step on a minibatch `[b, N]`; rows of zero norm are left out, and so is a step with none.

        The gradient is taken at the dictionary that the step starts from.
        """
        block = block[np.linalg.norm(block, axis=1) ** self.p >= LEAST]
        if not len(block):
            return old
        if self.precondition:
            old = self._precondition(old, block)
            if old.samples < self.precondition:
                return old
            block = block @ old.whitening.T
        else:
            old = replace(old, samples=old.samples + len(block))
        t = old.steps + 1
        here = old.dictionary if t > 1 or self.start == "random" else self._from_data(old.dictionary, block)
        rho, gamma = self.rho(t), self.gamma(t)
        average = (1 - rho) * old.gradient + rho * self.gradient(here, block)
        vertex = spectral_lmo(average, here, self.polar)
        return replace(
            old,
            dictionary=here + gamma * (vertex - here),
            gradient=average,
            gap=np.array([frank_wolfe_gap(average, here, vertex)]),
            steps=t,
        )

    def gradient(self, dictionary: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Of `-mean ||D^H y||_p^p` over the rows y of a minibatch `[b, N]`, `[N, N]`."""
        codes = block @ dictionary.conj()
        return -self.p / len(block) * block.T @ (np.abs(codes) ** (self.p - 2) * codes).conj()

    def _from_data(self, drawn: np.ndarray, block: np.ndarray) -> np.ndarray:
        columns = (block / np.linalg.norm(block, axis=1, keepdims=True))[: len(drawn)].T
        return polar(np.pad(columns, ((0, 0), (0, len(drawn) - columns.shape[1]))), drawn)

    def _precondition(self, old: DictionaryState, block: np.ndarray) -> DictionaryState:
        samples = old.samples + len(block)
        moment = old.moment + (block.T @ block.conj() - len(block) * old.moment) / samples
        due, whitening = self.precondition, old.whitening
        while due <= old.samples:
            due *= 2
        if samples >= due:
            whitening = _power(moment, -0.5)
        return replace(old, moment=moment, whitening=whitening, samples=samples)

    def finalize(self, old: DictionaryState) -> DictionaryState:
        """Learn the rows that wait, as a short minibatch."""
        waiting, rest = flush(old.waiting)
        return self.learn(replace(old, waiting=waiting), rest)

    def widen(self, old: DictionaryState, width: int) -> DictionaryState:
        """The state for rows of more columns: the new ones are atoms of their own until rows say otherwise."""
        had = len(old.dictionary)
        fresh = self.init(width, old.seed)
        dictionary = np.eye(width, dtype=self.dtype)
        for ours, theirs in (
            (dictionary, old.dictionary),
            (fresh.gradient, old.gradient),
            (fresh.moment, old.moment),
            (fresh.whitening, old.whitening),
        ):
            ours[: len(theirs), : len(theirs)] = theirs
        fresh.waiting.items[:, :had] = old.waiting.items
        waiting = replace(fresh.waiting, count=old.waiting.count, position=old.waiting.position)
        return replace(
            old,
            dictionary=dictionary,
            gradient=fresh.gradient,
            moment=fresh.moment,
            whitening=fresh.whitening,
            waiting=waiting,
        )

    def orthogonal(self, now: DictionaryState) -> np.ndarray:
        """The learned orthogonal dictionary `[N, N]`, its atoms in columns: the polar factor of D."""
        return polar(now.dictionary, random_orthogonal(len(now.dictionary), now.seed, self.dtype))

    def components(self, now: DictionaryState) -> np.ndarray:
        """What rows are multiplied by to give codes, `[N, N]`: the dictionary's inverse."""
        inverse = self.orthogonal(now).conj().T
        return inverse @ now.whitening if self.precondition else inverse

    def mixing(self, now: DictionaryState) -> np.ndarray:
        """The dictionary of the rows as they came, `[N, N]`, atoms in columns; not orthogonal if preconditioned."""
        atoms = self.orthogonal(now)
        return np.linalg.solve(now.whitening, atoms) if self.precondition else atoms

    def nbytes(self, width: int) -> int:
        """Bytes of a state, at all times."""
        return nbytes(self.init(width))


def random_orthogonal(width: int, seed: int, dtype: str = "float64") -> np.ndarray:
    """An orthogonal (unitary) matrix `[width, width]`, uniformly drawn."""
    rng = philox(seed, 0)
    drawn = rng.standard_normal((width, width)).astype(dtype)
    if dtype == "complex128":
        drawn = drawn + 1j * rng.standard_normal((width, width))
    factor, triangle = np.linalg.qr(drawn)
    diagonal = np.diagonal(triangle)
    return factor * (diagonal / np.abs(diagonal))


def spikiness(codes: np.ndarray, p: float) -> float:
    """Mean of `||u||_p^p` over the rows `[n, N]` scaled to length 1: 1 if each has a single entry; zero rows left out.

    The least is `N ** (1 - p / 2)`, of rows whose entries are all of one magnitude.
    """
    sizes = np.linalg.norm(codes, axis=1)
    kept = sizes > 0
    if not kept.any():
        return 0.0
    return float(np.mean(np.sum(np.abs(codes[kept] / sizes[kept, None]) ** p, axis=1)))


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a Hermitian positive semi-definite matrix, small eigenvalues held up."""
    values, vectors = np.linalg.eigh(matrix)
    floor = max(_EIGENVALUE_FLOOR * float(values[-1]), np.finfo(float).tiny)
    return (vectors * np.maximum(values, floor) ** exponent) @ vectors.conj().T
