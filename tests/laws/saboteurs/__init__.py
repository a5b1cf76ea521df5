"""Operators that are wrong in one way each; `BITES` says which laws catch each."""

from typing import NamedTuple

from saboteurs.conduct import (
    AllForOne,
    Borrower,
    Crasher,
    Eavesdropper,
    Endless,
    Farewell,
    Gossip,
    Gullible,
    Halfway,
    Hasty,
    Headcount,
    Seated,
    Stubborn,
    Verbose,
    Whisper,
)
from saboteurs.outputs import (
    Backdated,
    Bookkeeper,
    Chunky,
    Clairvoyant,
    Clockwatcher,
    Forgetful,
    Shuffled,
    Slipshod,
    Tailless,
    Unaccountable,
)
from saboteurs.running import Running, spec
from saboteurs.states import (
    Amnesiac,
    Clinger,
    Gambler,
    Hoarder,
    Overstating,
    Parochial,
    Seeder,
    Sharing,
    Spoiler,
    Understating,
    Untidy,
    Widening,
    Window,
)

__all__ = ["BITES", "Bite", "Forgetful", "Running", "Understating", "spec"]


class Bite(NamedTuple):
    """A saboteur, the law that must catch it, and the other laws that it breaks as well."""

    law: str
    operator: type[Running]
    also: tuple[str, ...] = ()


BITES = (
    Bite("L1", Chunky, ("L2",)),
    Bite("L1", Tailless, ("L2", "L3")),
    Bite("L1", Bookkeeper),
    Bite("L2", Forgetful),
    Bite("L2", Unaccountable),
    Bite("L2", Slipshod),
    Bite("L3", Clairvoyant),
    Bite("L4", Hoarder),
    Bite("L4", Understating),
    Bite("L4", Overstating),
    Bite("L4", Widening),
    Bite("L5", Parochial),
    Bite("L5", Amnesiac),
    Bite("L6", Gossip),
    Bite("L6", Whisper),
    Bite("L6", AllForOne),
    Bite("L6", Eavesdropper),
    Bite("L6", Headcount),
    Bite("L6", Seated),
    Bite("L7", Hasty, ("L9",)),
    Bite("L7", Borrower),
    Bite("L7", Stubborn),
    Bite("L8", Farewell),
    Bite("L8", Endless, ("L5", "L11", "L12")),
    Bite("L9", Clinger),
    Bite("L9", Spoiler, ("L1", "L2", "L3", "L5", "L6", "L11")),
    Bite("L9", Sharing),
    Bite("L9", Untidy, ("L1", "L4", "L5", "L6", "L7", "L8", "L10", "L11", "L12")),
    Bite("L9", Window, ("L5",)),
    Bite("L10", Gambler, ("L1", "L2", "L3", "L5", "L6", "L7", "L9", "L11", "L12")),
    Bite("L10", Seeder),
    Bite("L11", Backdated),
    Bite("L11", Shuffled),
    Bite("L11", Clockwatcher),
    Bite("L12", Gullible),
    Bite("L12", Verbose),
    Bite("L12", Crasher),
    Bite("L12", Halfway),
)
