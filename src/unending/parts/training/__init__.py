"""Seeded small training runs with progress, resume and a model card, and the synthetic streams they learn from."""

from unending.parts.training.cards import FIELDS, model_card, write_card
from unending.parts.training.runs import Recipe, Run, learning_rate, train
from unending.parts.training.streams import (
    RecallStream,
    byte_windows,
    digest,
    library_docstrings,
    library_sources,
    repeats,
)

__all__ = [
    "FIELDS",
    "RecallStream",
    "Recipe",
    "Run",
    "byte_windows",
    "digest",
    "learning_rate",
    "library_docstrings",
    "library_sources",
    "model_card",
    "repeats",
    "train",
    "write_card",
]
