"""Sources, and names of models. Imports no framework."""

from unending.io import models, sources, text

__all__ = ["models", "sources", "text"]
