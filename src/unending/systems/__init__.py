"""The catalogue: one file a published system, by family."""
