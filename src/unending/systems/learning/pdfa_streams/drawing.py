"""Automata as Graphviz text."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unending.systems.learning.pdfa_streams.model import PDFA

__all__ = ["dot"]

_SHOWN = 48
"""Characters of a name that are drawn."""


def _quoted(text: object) -> str:
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(text))
    if len(shown) > _SHOWN:
        shown = shown[: _SHOWN - 1] + "…"
    # Graphviz reads entities of HTML in every string.
    return shown.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.0095 else f"{100 * share:.1f}%"


def dot(pdfa: "PDFA", min_probability: float = 0.0, title: str = "pdfa") -> str:
    """Graphviz DOT text of the established states.

    A state shows its number, its visits and the probability to end there (a double ring where it is at least 1%). An
    edge shows the symbols between two states, the most probable first. What is too rare to have a state of its own is
    one dashed node.

    Parameters
    ----------
    pdfa
        the automaton.
    min_probability
        transitions below it are left out.
    title
        name of the graph.
    """
    lines = [
        f'digraph "{_quoted(title)}" {{',
        "  rankdir=LR;",
        '  node [shape=ellipse, margin=0.03, fontname="sans-serif"];',
    ]
    lines += [
        '  edge [fontname="sans-serif", fontsize=11];',
        '  start [shape=point, label=""];',
        "  start -> q0;",
    ]
    states = np.flatnonzero(pdfa.red)
    names = {int(state): f"q{at}" for at, state in enumerate(states)}
    rare = False
    edges: list[str] = []
    for state, name in names.items():
        end = float(pdfa.probabilities[state, -1])
        rings = 2 if end >= 0.01 else 1
        label = f"{name[1:]}\\n{int(pdfa.visits[state])} visits\\nend {_percent(end)}"
        lines.append(f'  {name} [peripheries={rings}, label="{label}"];')
        between: dict[str, list[tuple[float, str]]] = {}
        for at, target in enumerate(pdfa.following[state]):
            share = float(pdfa.probabilities[state, at])
            if target >= 0 and share >= min_probability:
                to = names.get(int(target), "rare")
                between.setdefault(to, []).append((share, _quoted(pdfa.symbols[at])))
        for to, found in between.items():
            rare |= to == "rare"
            label = "\\n".join(
                f"{symbol} {_percent(share)}" for share, symbol in sorted(found, key=lambda x: -x[0])
            )
            style = ", style=dashed" if to == "rare" else ""
            edges.append(f'  {name} -> {to} [label="{label}"{style}];')
    if rare:
        lines.append('  rare [label="rare", style=dashed];')
    return "\n".join([*lines, *edges, "}"]) + "\n"
