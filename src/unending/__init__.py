"""AI on streams that never end: one contract, bounded state, exact resume, honest measurements."""

__version__ = "0.1.0"
