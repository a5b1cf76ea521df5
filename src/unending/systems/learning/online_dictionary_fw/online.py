"""The River face: `learn_one` and `transform_one` on dicts of features that may appear and vanish."""

from unending.parts.estimators.online import LinearOnline
from unending.systems.learning.online_dictionary_fw.core import DictionarySettings

__all__ = ["OnlineDictionary"]


class OnlineDictionary(LinearOnline):
    """Codes in an orthogonal dictionary learned on the way, for River (Xue and Lau 2021, arXiv 2103.01484).

    Parameters
    ----------
    p, batch_size, rho_min, gamma_min
        as for `DictionarySettings`.
    on_new_feature
        what happens to features that the first row did not have: `grow`, `ignore` or `raise`.
    max_features
        most features; one more raises `CapacityError`.
    seed
        of the first dictionary; None draws one.

    Examples
    --------
    >>> from unending.systems.learning.online_dictionary_fw.online import OnlineDictionary
    >>> model = OnlineDictionary(seed=1)
    >>> for k in range(200):
    ...     model.learn_one({"x": 3.0, "y": 4.0} if k % 2 else {"x": -0.8, "y": 0.6})
    >>> codes = model.transform_one({"x": 3.0, "y": 4.0})
    >>> sorted(round(abs(code)) for code in codes.values())
    [0, 5]

    """

    def __init__(
        self,
        p: float = 3.0,
        batch_size: int = 1,
        rho_min: float = 0.0,
        gamma_min: float = 0.0,
        on_new_feature: str = "grow",
        max_features: int = 256,
        seed: int | None = None,
    ) -> None:
        self.p = p
        self.batch_size = batch_size
        self.rho_min = rho_min
        self.gamma_min = gamma_min
        self.on_new_feature = on_new_feature
        self.max_features = max_features
        self.seed = seed
        self._begin()

    def _core(self) -> DictionarySettings:
        return DictionarySettings(
            p=self.p, batch_size=self.batch_size, rho_min=self.rho_min, gamma_min=self.gamma_min
        )
