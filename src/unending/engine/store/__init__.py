"""Where sessions survive their process: a directory with a journal and snapshots, or memory."""

from unending.engine.store.faults import FaultyStore
from unending.engine.store.journal import Entry, Row, Store, Stored
from unending.engine.store.memory import MemoryStore
from unending.engine.store.stores import DirectoryStore

__all__ = ["DirectoryStore", "Entry", "FaultyStore", "MemoryStore", "Row", "Store", "Stored"]
