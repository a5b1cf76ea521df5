"""What the scikit-learn and River faces of learners share: one core, two thin faces.

`scikit` needs scikit-learn and `online` needs River, so each is imported from its own module.
"""

from unending.parts.estimators.columns import Columns
from unending.parts.estimators.core import LinearCore

__all__ = ["Columns", "LinearCore"]
