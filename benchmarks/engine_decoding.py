"""Sessions that answer together: tokens a second against one at a time, and what a lone one pays for the width.

Rows of `engine`; settings, seeds and the baseline are the constants below.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from rows import Row, store

from unending.core import TICK, Query, Text
from unending.io.text import standard_text
from unending.parts.reading.reader import ReaderState
from unending.systems.language import StreamingLLM

SETTINGS = {
    "smollm2-135m": {"sink_size": 4, "window_size": 508, "chunk": 64},
    "tiny-bytes": {"sink_size": 4, "window_size": 92, "chunk": 16},
}
SESSIONS = (1, 2, 4, 8, 16)
WIDTH = 8
"""Slots of an engine unless it is told otherwise."""
SHORTEST, LONGER = 40, 90
"""Characters that the first session has read, and how many more each next one."""
REPEATS = 9
"""Every figure is the fastest of so many ticks from the same states; the arms take turns."""


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def ages(operator: StreamingLLM, count: int) -> list[ReaderState]:
    """Sessions with an answer in the making, each after another stretch of text."""
    text, states = standard_text(), []
    for index in range(count):
        state = operator.init(index)
        begin = 5_000 * index
        for chunk in (Text(text[begin : begin + SHORTEST + LONGER * index]), Query("why?")):
            state, _ = operator.step(state, chunk)
        states.append(state)
    return states


def times(arms: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least processor seconds of each arm: in one thread, what a quiet machine takes."""
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(REPEATS + 1):
        for name, arm in arms.items():
            began = time.process_time()
            arm()
            if turn:
                spent[name].append(time.process_time() - began)
    return {name: min(each) for name, each in spent.items()}


def measured(model: str) -> list[Row]:
    operator = StreamingLLM(model, max_new_tokens=32, chat=False, **SETTINGS[model])
    states = ages(operator, max(SESSIONS))
    kept = [state.memory.count for state in states]
    progress(f"{model}: {len(states)} sessions, {min(kept)} to {max(kept)} tokens kept")

    # Dropping what a step gives is undo, so every tick begins at the same states; `step` would consume them.
    def alone(count: int) -> Callable[[], object]:
        return lambda: [operator.advance(state, TICK) for state in states[:count]]

    def together(count: int, width: int) -> Callable[[], object]:
        return lambda: operator._step_many(states[:count], [TICK] * count, width)

    ours, theirs = {}, {}
    for count in SESSIONS:
        found = times({"alone": alone(count), "together": together(count, count)})
        ours[str(count)] = round(count / found["together"], 1)
        theirs[str(count)] = round(count / found["alone"], 1)
        progress(
            f"{model}, {count} sessions: {ours[str(count)]} tokens/s, one at a time {theirs[str(count)]}"
        )
    lone = times({"step": alone(1), "1": together(1, 1), str(WIDTH): together(1, WIDTH)})
    setting = (
        f"{model}, cache {operator.sink_size}+{operator.window_size}, {min(kept)} to {max(kept)} tokens kept,"
        f" float32, one thread, fastest of {REPEATS} ticks"
    )
    return [
        Row(
            "sessions of different ages decode together",
            "no paper",
            "one session at a time, by number of sessions",
            theirs,
            ours,
            "tokens/s of one core",
            setting,
        ),
        Row(
            f"what a session alone in a batch of width {WIDTH} pays for bits that know no neighbour",
            "no paper",
            "width 1",
            round(1000 * lone["1"], 2),
            {f"width {WIDTH}": round(1000 * lone[str(WIDTH)], 2), "no batch": round(1000 * lone["step"], 2)},
            "ms of one core a token",
            setting,
        ),
    ]


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for model in SETTINGS for row in measured(model)]
    store("engine", rows, "python benchmarks/engine_decoding.py")


if __name__ == "__main__":
    main()
