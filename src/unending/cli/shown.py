"""Outputs of chosen roles, printed as they come: text, and what a system says in controls (segments, actions)."""

import json
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from unending.core import Control, Event, Text
from unending.core.errors import InputError

__all__ = ["ANSWERS", "Shown", "missed", "roles"]

ANSWERS = frozenset(("", "answer"))
"""Roles of what counts as the answer to a question."""
_ALL, _PLAIN = "all", "text"


def roles(named: Iterable[str]) -> frozenset[str] | None:
    """The roles that a person has named: `thoughts` is "thought", `text` is the one without a name, `all` is None.

    Raises
    ------
    InputError
        if one is blank.
    """
    wanted = [name.strip().lower() for name in named]
    if not all(wanted):
        raise InputError("--show takes roles of outputs, such as thoughts, deep, answer, text, or all")
    if _ALL in wanted:
        return None
    return frozenset("" if name == _PLAIN else name for name in wanted)


class Shown:
    """Prints the text of some roles, a line for each stretch of one role; of roles with a name, and one stream time.

    Parameters
    ----------
    wanted
        of `roles`.
    out
        print it; else it is only kept in `whole`.
    """

    def __init__(self, wanted: frozenset[str] | None, *, out: bool) -> None:
        self.whole: list[dict[str, Any]] = []
        """The stretches so far: role, stream time `t`, text. Of what is printed, only where the newest one stands."""
        self.others: set[str] = set()
        """Roles that came and were not wanted."""
        self._wanted, self._out = wanted, out
        self._labelled = wanted is None or (len(wanted) > 1 and wanted != ANSWERS)
        self._open = False

    def see(self, events: Iterable[Event]) -> None:
        """Print what is wanted among outputs."""
        for event in events:
            data = event.data
            if isinstance(data, Control):  # segments, actions: a line of JSON each
                if self.wants(data.name):
                    self.end_line()
                data = Text(json.dumps(data.value, default=np.ndarray.tolist), role=data.name)
            if isinstance(data, Text) and event.final and data.text:
                if self.wants(data.role):
                    self._add(data, event.t_end)
                else:
                    self.others.add(data.role)

    def wants(self, role: str) -> bool:
        """Whether this role is wanted, be it named in the singular or the plural."""
        return self._wanted is None or role in self._wanted or (bool(role) and f"{role}s" in self._wanted)

    def _add(self, data: Text, t: float) -> None:
        last = self.whole[-1] if self.whole else {}
        goes_on = self._open and last["role"] == data.role and (not data.role or last["t"] == t)
        if not goes_on:
            self.end_line()
            if self._out:
                self.whole.clear()
            self.whole.append({"role": data.role, "t": t, "text": "" if self._out else data.text})
        elif not self._out:
            last["text"] += data.text
        if self._out:
            label = f"{data.role}: " if self._labelled and data.role and not goes_on else ""
            print(
                f"{label}{data.text.lstrip() if data.role and not goes_on else data.text}", end="", flush=True
            )
        self._open = True

    def end_line(self) -> None:
        """The stretch at hand is at its end."""
        if self._open and self._out:
            print(flush=True)
        self._open = False


def missed(shown: Shown, named: Collection[str]) -> str:
    """A hint for a person who named roles that nothing came with; empty otherwise."""
    if shown.whole or not shown.others:
        return ""
    there = ", ".join(sorted(role or _PLAIN for role in shown.others))
    return f"no output had a role of --show {' '.join(named)}; there were: {there}"
