"""The top eigenvector of a randomly ordered stream.

Here: the operator and the core. `estimators` has the scikit-learn face and `online` that of River, each with a
package of its own.
"""

from unending.systems.learning.streaming_top_eigenvector.core import EigenvectorState, Estimate, Settings
from unending.systems.learning.streaming_top_eigenvector.operator import StreamingTopEigenvector

__all__ = ["EigenvectorState", "Estimate", "Settings", "StreamingTopEigenvector"]
