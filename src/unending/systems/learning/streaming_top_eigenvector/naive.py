"""The same learner with lists, one row at a time: the reference that the compiled core is tested against."""

from math import log

import numpy as np

from unending.systems.learning.streaming_top_eigenvector.core import CANDIDATES, Settings
from unending.systems.learning.streaming_top_eigenvector.rows import uniforms

__all__ = ["NaiveTopEigenvector"]


class NaiveTopEigenvector:
    """What `Settings.init`, `update` and `estimate` do, written for reading; no reservoir.

    Parameters
    ----------
    settings, width, seed
        as for `Settings.init`.
    """

    def __init__(self, settings: Settings, width: int, seed: int = 0) -> None:
        self.settings, self.width, self.seed = settings, width, seed
        self.start, self.length = 0, settings.first_stage(width)
        self.vectors = dict(zip(CANDIDATES, settings.init(width, seed).vectors, strict=False))
        self.oja = self.vectors["light"].copy()
        self.store: list[tuple[int, np.ndarray]] = []
        self.light: list[tuple[np.ndarray, float]] = []
        """Light rows of the running block and their weights; the fast core keeps their sums only."""
        self.norms: list[float] = []
        self.clipped: list[float] = []
        self.oja_energy, self.light_seen, self.block_start, self.blocks, self.overflow = 0.0, 0, 0, 0, 0
        self.picked, self.quotients = "combined", dict.fromkeys(CANDIDATES, 0.0)

    def row(self, row: np.ndarray) -> None:
        """Learn one row `[d]`."""
        settings, i, square = self.settings, len(self.norms) + 1, float(row @ row)
        n, share = self.start + self.length, settings.heavy_factor / self.width
        others, others_clipped = sum(self.norms), sum(self.clipped)
        self.norms.append(square)
        self.clipped.append(min(square, 8 * others_clipped / (i - 1)) if others_clipped else square)
        if square:
            if self.falls_back(i - 1):
                self.oja_energy += float(row @ self.oja) ** 2
                self.oja = self.oja + self.width / (others + square) * row * (row @ self.oja)
                self.oja /= np.linalg.norm(self.oja)
            beyond = others - others_clipped
            if square >= share * (others_clipped * n / max(i - 1, 1) + beyond) and self.keep(i, row):
                pass
            else:
                self.light_seen += 1
                share_kept = 1.0
                if settings.thinning and i > settings.first_stage(self.width) // settings.blocks(self.width):
                    aim = settings.thinning * self.width * log(max(self.width, 2)) ** 2
                    share_kept = min(1.0, aim * square / (others * n / (i - 1)))
                if share_kept == 1 or uniforms(self.seed, i - 1, 1)[0, 0] < share_kept:
                    self.light.append((row, 1 / share_kept))
        t = settings.blocks(self.width)
        if any(self.start + k * self.length // t == i for k in range(1, t + 1)):
            self.close()

    def falls_back(self, seen: int) -> bool:
        """Whether Oja's vector is what there is."""
        t = self.settings.blocks(self.width)
        return t == 1 or seen < t or self.blocks < 2

    def keep(self, i: int, row: np.ndarray) -> bool:
        """Store a heavy row, if there is room or can be made."""
        capacity = self.settings.capacity(self.width)
        if capacity and len(self.store) == capacity:
            self.prune()
        if capacity and len(self.store) == capacity:
            self.overflow += 1
            place = min(range(capacity), key=lambda k: self.store[k][1] @ self.store[k][1])
            if self.store[place][1] @ self.store[place][1] < row @ row:
                self.demote(self.store[place])
        if len(self.store) < capacity:
            self.store.append((i, row))
            return True
        return False

    def prune(self) -> None:
        """Turn stored rows that are not heavy any more into light ones."""
        n = self.start + self.length
        threshold = self.settings.heavy_factor / self.width * sum(self.norms) * n / len(self.norms)
        for each in [each for each in self.store if each[1] @ each[1] < threshold]:
            self.demote(each)

    def demote(self, stored: tuple[int, np.ndarray]) -> None:
        """A stored row becomes light: in the running block's sum if it came in this block, else nowhere."""
        self.store = [each for each in self.store if each[0] != stored[0]]
        self.light_seen += 1
        if stored[0] > self.block_start:
            self.light.append((stored[1], 1.0))

    def close(self) -> None:
        """End a block."""
        i = len(self.norms)
        self.prune()
        heavy = np.array([row for _, row in self.store]).reshape(-1, self.width)
        block = (i - self.block_start) / i
        if self.blocks:
            for kind, v in self.vectors.items():
                light = sum(weight * float(row @ v) ** 2 for row, weight in self.light)
                self.quotients[kind] = (float(np.sum((heavy @ v) ** 2)) + light / block) / i
            self.picked = max(CANDIDATES, key=lambda kind: self.quotients[kind])
        moved = {
            kind: sum(
                (weight * row * (row @ self.vectors[kind]) for row, weight in self.light),
                np.zeros(self.width),
            )
            for kind in ("light", "combined")
        }
        moved["combined"] = moved["combined"] + block * heavy.T @ (heavy @ self.vectors["combined"])
        for kind, vector in moved.items():
            if vector.any():
                self.vectors[kind] = vector / np.linalg.norm(vector)
        self.vectors["heavy"] = np.linalg.svd(heavy)[2][0] if len(heavy) else np.zeros(self.width)
        self.light, self.block_start, self.blocks = [], i, self.blocks + 1
        if i == self.start + self.length:
            self.start = self.length = i

    def estimate(self) -> np.ndarray:
        """The direction `[d]`, up to its sign."""
        combine = self.settings.combine
        if self.store and self.light_seen == 0 and combine in ("auto", "heavy"):
            return np.linalg.svd(np.array([row for _, row in self.store]))[2][0]
        if combine == "auto" and self.falls_back(len(self.norms)):
            return self.oja
        return self.vectors[self.picked if combine == "auto" else combine]
