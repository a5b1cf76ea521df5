"""Faults that the engine must survive: whole simulated lives, and a failure at every n-th place of one life.

    python benchmarks/reliability.py --only simulate --count 2000 --seed 0
    python benchmarks/reliability.py --only sweep --count 10000 --seed 0

What was done for a seed is kept under `.cache/reliability/` and not done again, so that a run can be cut and go on.
Kills of a real server are in reliability_kill.py, damaged files in reliability_corrupt.py, hostile frames in
reliability_fuzz.py.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from rows import Row, store

from unending.engine.simulation.world import World, simulate

CACHE = Path(__file__).parents[1] / ".cache" / "reliability"
KINDS = ("before", "after", "step", "cut", "kill")
"""The n-th operation of the store fails before or after it is done; the n-th step raises; at the n-th turn every
client is cut off in whatever it does; at the n-th turn the process dies."""
TURNS = 400


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def kept(name: str, seed: int) -> tuple[Path, Counter[str]]:
    """Where a run keeps what it has done, and that."""
    path = CACHE / f"{name}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, Counter(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})


def lives(count: int, seed: int) -> None:
    """Whole-engine simulations from seeds that follow each other."""
    path, total = kept("simulate", seed)
    while total["lives"] < count:
        number = seed + total["lives"]
        counts, wrong = simulate(number)
        total.update({"lives": 1, "violations": len(wrong), **counts})
        if wrong:
            progress(f"seed {number}: {wrong[0]}")
        if total["lives"] % 100 == 0:
            path.write_text(json.dumps(total), encoding="utf-8")
            progress(f"{total['lives']} of {count} lives, {total['violations']} violations")
    path.write_text(json.dumps(total), encoding="utf-8")
    trouble = ", ".join(
        f"{total[name]:,} {name}" for name in ("turns", "crashes", "faults", "parked", "restored", "shed")
    )
    store(
        "reliability",
        [
            Row(
                claim="invariant violations in whole-engine simulations from a seed",
                paper="first bar: 2,000 seeds, 0 violations",
                peer="the same seeds with one of eight parts broken (tests/engine/simulation/test_world.py)",
                peer_value="each found out",
                ours=total["violations"],
                unit="violations",
                setting=f"{total['lives']:,} seeds from {seed}, {TURNS} turns each, then served to the end",
                note=trouble,
            )
        ],
        f"benchmarks/reliability.py --only simulate --count {count} --seed {seed}",
    )


def one_fault(seed: int, kind: str, place: int) -> tuple[bool, list[str]]:
    """A life without trouble but for one fault: whether it came to that, and what was wrong."""
    mode: Any = kind if kind in ("before", "after") else None
    world = World(seed, trouble=0.0, mode=mode)
    seen, fired = 0, False

    def fails(operation: str) -> bool:
        nonlocal seen, fired
        if kind != ("step" if operation == "step" else mode):
            return False
        seen += 1
        fired = fired or seen == place
        return seen == place

    world.fails = fails
    for turn in range(1, TURNS + 1):
        if turn == place and kind in ("cut", "kill"):
            fired = True
            world.cut() if kind == "cut" else world.crash()
        world.turn()
        if wrong := world.wrong():
            return fired, wrong
    world.settle()
    return fired, world.verdict()


def sweep(count: int, seed: int) -> None:
    """For each life and kind of fault: a failure at the first place, the second, ... until it is no longer reached."""
    path, total = kept("sweep", seed)
    life, which, place = total.get("life", 0), total.get("which", 0), total.get("place", 0)
    while total["faults"] < count:
        place += 1
        fired, wrong = one_fault(seed + life, KINDS[which], place)
        if fired:
            total.update({"faults": 1, KINDS[which]: 1, "wrong": len(wrong)})
            if wrong:
                progress(f"seed {seed + life}, {KINDS[which]} {place}: {wrong[0]}")
        else:
            which, place = which + 1, 0
            if which == len(KINDS):
                life, which = life + 1, 0
        if total["faults"] % 200 == 0:
            total.update(
                {
                    "life": life - total["life"],
                    "which": which - total["which"],
                    "place": place - total["place"],
                }
            )
            path.write_text(json.dumps(total), encoding="utf-8")
            progress(f"{total['faults']} of {count} faults over {life + 1} lives, {total['wrong']} wrong")
    path.write_text(json.dumps(total), encoding="utf-8")
    kinds = ", ".join(f"{total[kind]:,} {kind}" for kind in KINDS)
    store(
        "reliability",
        [
            Row(
                claim="wrong states after a failure at the n-th place, for n = 1, 2, 3, ...",
                paper="first bar: 10,000 faults, state right after every one",
                peer="the operator run alone on the accepted input",
                peer_value=0,
                ours=total["wrong"],
                unit="wrong lives",
                setting=f"{total['faults']:,} faults, seeds from {seed}",
                note=f"{life + 1} lives: {kinds}",
            )
        ],
        f"benchmarks/reliability.py --only sweep --count {count} --seed {seed}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("simulate", "sweep"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.only in (None, "simulate"):
        lives(given.count or 2000, given.seed)
    if given.only in (None, "sweep"):
        sweep(given.count or 10_000, given.seed)


if __name__ == "__main__":
    main()
