"""The River face: `learn_one` and `transform_one` on dicts of features that may appear and vanish."""

from unending.parts.estimators.online import LinearOnline
from unending.systems.learning.streaming_top_eigenvector.core import Settings

__all__ = ["OnlineTopEigenvector"]


class OnlineTopEigenvector(LinearOnline):
    """Projection on the top direction of rows in random order, for River (Kacham and Woodruff 2024, 2412.11963).

    Parameters
    ----------
    n_rows
        length of the stream; 0 if unknown.
    n_blocks, heavy_factor, max_heavy
        as for `Settings`.
    on_new_feature
        what happens to features that the first row did not have: `grow`, `ignore` or `raise`.
    max_features
        most features; one more raises `CapacityError`.
    seed
        of the first direction; None draws one.

    Examples
    --------
    >>> from unending.systems.learning.streaming_top_eigenvector.online import OnlineTopEigenvector
    >>> model = OnlineTopEigenvector(seed=1)
    >>> for row in [{"x": 3.0, "y": 4.0}] * 9:
    ...     model.learn_one(row)
    >>> round(model.transform_one({"x": 3.0, "y": 4.0})["onlinetopeigenvector0"], 2)
    5.0

    """

    def __init__(
        self,
        n_rows: int = 0,
        n_blocks: int = 0,
        heavy_factor: float = 0.3,
        max_heavy: int = -1,
        on_new_feature: str = "grow",
        max_features: int = 1024,
        seed: int | None = None,
    ) -> None:
        self.n_rows = n_rows
        self.n_blocks = n_blocks
        self.heavy_factor = heavy_factor
        self.max_heavy = max_heavy
        self.on_new_feature = on_new_feature
        self.max_features = max_features
        self.seed = seed
        self._begin()

    def _core(self) -> Settings:
        return Settings(self.n_rows, self.n_blocks, self.heavy_factor, self.max_heavy)
