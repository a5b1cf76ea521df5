"""Sources, and names of models. Imports no framework."""

from unending.io import models, text

__all__ = ["models", "text"]
