"""Model cards: what a trained model was made of, how, and how good it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "model_card", "write_card"]

FIELDS = (
    "title",
    "summary",
    "data",
    "recipe",
    "seed",
    "steps",
    "cpu_minutes",
    "quality",
    "licence",
    "command",
)
"""What every card says; `data`, `recipe` and `quality` are tables, the others one value each."""

_TEMPLATE = """---
license: {licence}
library_name: transformers
tags: [unending]
---

# {title}

{summary}

| training | |
|---|---|
| seed | {seed} |
| steps | {steps} |
| CPU minutes, one thread | {cpu_minutes} |
| licence | {licence} |
| made by | `{command}` |

## Data

{data}

## Recipe

{recipe}

## Measured quality

{quality}
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The text of a model card in Markdown.

    Parameters
    ----------
    facts : mapping
        exactly the names in `FIELDS`.
    """
    missing, unknown = [f for f in FIELDS if f not in facts], [f for f in facts if f not in FIELDS]
    if missing or unknown:
        raise ValueError(
            f"a model card misses {missing or 'nothing'} and does not know {unknown or 'nothing'}"
        )
    return _TEMPLATE.format(**{f: _table(v) if isinstance(v, Mapping) else v for f, v in facts.items()})


def write_card(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write the card as README.md of a model's folder and return its path."""
    path = Path(folder) / "README.md"
    path.write_text(model_card(facts), "utf-8")
    return path


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_value(value)} |" for name, value in facts.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value)
    return str(value)
