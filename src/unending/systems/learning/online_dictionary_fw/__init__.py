"""Online orthogonal dictionary learning by Frank-Wolfe.

Here: the operator and the core. `estimators` has the scikit-learn face and `online` that of River, each with a
package of its own; `metrics` says how good a dictionary is.
"""

from unending.systems.learning.online_dictionary_fw.core import DictionarySettings, DictionaryState
from unending.systems.learning.online_dictionary_fw.operator import OnlineDictionaryFW

__all__ = ["DictionarySettings", "DictionaryState", "OnlineDictionaryFW"]
