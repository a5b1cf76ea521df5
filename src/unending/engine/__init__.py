"""Many sessions at once: slots, scheduler, journal, store. One process; the same calls for more later."""

from unending.engine.counters import Counters
from unending.engine.limits import Limits
from unending.engine.scheduler import Scheduler
from unending.engine.shell import Engine
from unending.engine.store.journal import Store
from unending.engine.store.memory import MemoryStore
from unending.engine.store.stores import DirectoryStore
from unending.engine.stream import Receipt, Stream
from unending.engine.views import SessionView, Totals
from unending.engine.watch import Watch

__all__ = [
    "Counters",
    "DirectoryStore",
    "Engine",
    "Limits",
    "MemoryStore",
    "Receipt",
    "Scheduler",
    "SessionView",
    "Store",
    "Stream",
    "Totals",
    "Watch",
]
