"""Claims of StreamingThinker (Tong et al. 2025), each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below. The arms come from scripts/train_tiny_thinker.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from rows import RESULTS, Row, store
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from unending.cli.monitor import Sample as Point
from unending.cli.pictures import plot
from unending.core import Query, Session, Text
from unending.io.models import locate
from unending.parts.training.problems import WordProblems, word_tokenizer
from unending.systems.language.streaming_thinker import (
    MARKS,
    Layout,
    Rates,
    Sample,
    StreamingThinker,
    StreamingThinking,
    Trace,
    check_streaming_cot,
    reading_times,
    simulate_latency,
    transcript,
)
from unending.systems.language.streaming_thinker.examples import tiny_thinker
from unending.systems.language.streaming_thinker.judging import judge
from unending.systems.language.streaming_thinker.training import ARMS, TINY

SYSTEM = "streaming-thinker"
IMAGES = RESULTS.parents[1] / "docs" / "images"
CHECKPOINTS = RESULTS.parents[1] / ".cache" / "training"
OURS = "tiny-thinker"
TESTS, TEST_SEED = 300, 7
SENTENCES = (3, 6)
LONGER = (7, 8)
"""Beyond the 6 sentences that any arm was trained on."""
LONGER_TESTS = 100
OPERATED = 60
"""Problems that go through the operator itself, token by token."""
RATES = Rates(decode=20.0)
"""Tokens a second; the reader has 238 words a minute."""
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
LENGTHS = 20_000
"""Characters of the stream whose memory and time are drawn."""
SHARE = "share of problems"


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def problems(sentences: tuple[int, int] = SENTENCES, count: int = TESTS) -> list[Sample]:
    made = WordProblems(TEST_SEED, sentences, test=True)
    return [Sample.of(made.problem(index)) for index in range(count)]


def arm_model(arm: str) -> tuple[Any, Any] | None:
    """Model and tokenizer of an arm, if it was trained here, or what is shipped."""
    folder = locate(OURS).folder if arm == OURS else CHECKPOINTS / f"thinker-{arm}" / "model"
    if not (folder / "config.json").is_file():
        progress(f"{arm} is not there: scripts/train_tiny_thinker.py --only {arm}")
        return None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def verdict(peer: dict[str, float], ours: dict[str, float]) -> str:
    """Whether a difference in right answers is more than noise."""
    error = 2 * (2 * 0.25 / TESTS) ** 0.5
    difference = ours["answers"] - peer["answers"]
    if abs(difference) < error:
        return f"no difference shown: it is below two standard errors ({error:.3f}) of so many problems"
    return "ours is better" if difference > 0 else "ours is worse"


def part_accuracy() -> list[Row]:
    """Every arm on the same test problems, free-running and greedy, and two arms in a stream they do not fit."""
    found: dict[str, Any] = {}
    runs: list[tuple[str, str, bool | None]] = [(arm, arm, None) for arm in ARMS]
    runs += [("batch-from-zero in a stream (no streaming mask in training)", "batch-from-zero", True)]
    runs += [("continued in a stream (positions jump at each read)", "continued", True)]
    for name, arm, streaming in runs:
        loaded = arm_model(arm)
        if loaded is None:
            continue
        for kind, sentences in (("", SENTENCES), (", longer", LONGER)):
            result = judge(
                *loaded, problems(sentences, TESTS if not kind else LONGER_TESTS), arm, streaming=streaming
            )
            found[name + kind] = {"answers": round(result.answers, 3), "thoughts": round(result.thoughts, 3)}
            progress(f"{name}{kind}: {found[name + kind]}")
    setting = (
        f"3-layer Qwen3 over words, one base for all arms, each tuned in its own layout; {TESTS} test problems of"
        f" {SENTENCES[0]} to {SENTENCES[1]} sentences with held-out templates, greedy"
    )
    ours, rows = found["streaming"], []
    claims = {
        "batch": ("streaming thinking is as accurate as batch thinking", "comparable"),
        "direct": ("thoughts are what makes the answers right", "thinking far above no thinking"),
        "interleaved": (
            "it is better than interleaving thoughts with the text",
            "better than naive interleaving",
        ),
        "batch-from-zero in a stream (no streaming mask in training)": (
            "without the streaming mask in training, streaming inference is worse",
            "mask needed",
        ),
        "continued in a stream (positions jump at each read)": (
            "with positions that continue instead of groups, streaming inference is worse",
            "group positions needed",
        ),
    }
    for peer, (claim, paper) in claims.items():
        if peer in found:
            rows.append(
                Row(claim, paper, peer, found[peer], ours, SHARE, setting, verdict(found[peer], ours))
            )
    longer = {
        name.removesuffix(", longer"): each for name, each in found.items() if name.endswith(", longer")
    }
    rows.append(
        Row(
            "beyond the trained number of sentences",
            "not in the paper",
            "the other arms",
            {name: each["answers"] for name, each in longer.items() if name != "streaming"},
            longer["streaming"]["answers"],
            SHARE,
            setting.replace(f"{SENTENCES[0]} to {SENTENCES[1]}", f"{LONGER[0]} to {LONGER[1]}").replace(
                str(TESTS), str(LONGER_TESTS)
            ),
        )
    )
    return rows


def part_shipped() -> list[Row]:
    """The model that is shipped: our arm, trained for longer."""
    loaded = arm_model(OURS)
    assert loaded is not None
    seen = WordProblems(TEST_SEED, SENTENCES)
    sets = {
        "3 to 6 sentences": problems(),
        "7 to 8 sentences": problems(LONGER, LONGER_TESTS),
        "3 to 6 sentences, templates as in training": [Sample.of(seen.problem(n)) for n in range(TESTS)],
    }
    found = {}
    for name, samples in sets.items():
        result = judge(*loaded, samples, "streaming")
        found[name] = {"answers": round(result.answers, 3), "thoughts": round(result.thoughts, 3)}
        progress(f"{OURS}, {name}: {result}")
    return [
        Row(
            "the shipped model on problems with held-out templates",
            "not in the paper",
            "none",
            None,
            found,
            SHARE,
            f"{OURS}, {TESTS} and {LONGER_TESTS} test problems, greedy",
        )
    ]


def answered(session: Session[Any], sample: Sample) -> dict[str, str]:
    """What the operator says to a problem, by role."""
    said: dict[str, str] = {}
    chunks = (Query(sample.question), Text(" ".join(sample.sentences)))
    for event in session.run(chunks):
        said[event.data.role] = said.get(event.data.role, "") + event.data.text
    return said


def part_operator() -> list[Row]:
    """The shipped operator on whole problems, against the masked forward passes by which the arms are judged."""
    op, samples = StreamingThinking(model=OURS), problems(count=OPERATED)
    right = 0
    for index, sample in enumerate(samples):
        said = answered(Session(op), sample)
        right += said.get("answer", "").strip() == sample.answer
        if index % 10 == 9:
            progress(f"operator: {right} of {index + 1} right")
    loaded = arm_model(OURS)
    assert loaded is not None
    masked = judge(*loaded, samples, "streaming").answers
    return [
        Row(
            "the operator, reading and writing two caches, is as accurate as the mask of training",
            "equal by construction",
            "masked forward passes",
            round(masked, 3),
            round(right / OPERATED, 3),
            SHARE,
            f"{OURS}, {OPERATED} test problems, greedy",
        )
    ]


def part_quality() -> list[Row]:
    """Generated chains of thought under the three checks."""
    passed = sum(check_streaming_cot(each, each.answer).ok for each in problems(count=2000))
    return [
        Row(
            "generated chains of thought pass the quality checks",
            "kept after filtering (share not given)",
            "all of them",
            2000,
            passed,
            "problems",
            "2,000 test problems; granularity, sequential consistency, answer",
        )
    ]


def delays(sample: Sample, tokenizer: Any, layout: Layout) -> tuple[Any, Any]:
    """Latencies of a problem read at a person's pace: thinking while reading, and afterwards."""
    script = transcript(sample, tokenizer, layout)
    words = [len(each.split()) for each in (sample.question, *sample.sentences)]
    arrivals = reading_times(words)
    arrivals = np.append(arrivals, arrivals[-1])
    both = (Trace.of(script, streaming=streaming) for streaming in (True, False))
    one, two = (simulate_latency(arrivals, RATES, trace) for trace in both)
    return one, two


def part_latency() -> list[Row]:
    """Delay to the first thought and to the answer, simulated at a person's reading pace; and the pictures."""
    tokenizer = word_tokenizer(MARKS)
    found = [delays(each, tokenizer, TINY) for each in problems()]
    tokens = 1 - np.mean([one.tokens_before / two.tokens_before for one, two in found])
    onset = 1 - np.mean([one.onset / two.onset for one, two in found])
    after = [np.mean([each[index].after_last for each in found]) for index in (0, 1)]
    by_count = {}
    for count in COUNTS:
        made = WordProblems(TEST_SEED, (max(2, count), max(2, count)))
        samples = [Sample.of(made.problem(index)) for index in range(40)]
        if count == 1:
            samples = [
                Sample(
                    each.question,
                    each.sentences[:1],
                    each.thoughts[:1],
                    each.deep,
                    "",
                    each.answer,
                    each.restated,
                )
                for each in samples
            ]
        by_count[count] = np.mean(
            [[d.after_last for d in delays(each, tokenizer, TINY)] for each in samples], axis=0
        )
    draw_timeline(problems(count=40), tokenizer, by_count)
    setting = (
        f"{TESTS} test problems, reading at 238 words a minute, decoding {RATES.decode:g} tokens a second"
    )
    reductions = {n: round(1 - float(one / two), 3) for n, (one, two) in by_count.items()}
    return [
        Row(
            "fewer source tokens before the first thought",
            "80% fewer",
            "batch thinking waits for all of them",
            0.0,
            round(float(tokens), 3),
            "reduction",
            setting,
            f"in seconds: {onset:.3f}",
        ),
        Row(
            "less time from the last word to the end of the answer",
            "more than 60% less",
            "batch thinking, seconds",
            round(float(after[1]), 2),
            {"seconds": round(float(after[0]), 2), "reduction": round(1 - float(after[0] / after[1]), 3)},
            "s",
            setting,
            f"reduction by number of sentences: {reductions}",
        ),
    ]


def draw_timeline(samples: list[Sample], tokenizer: Any, by_count: dict[int, np.ndarray]) -> None:
    """One problem along time, and the delay of the answer against the number of sentences."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sample = next(each for each in samples if len(each.sentences) == 5)
    streaming, batch = delays(sample, tokenizer, TINY)
    words = [len(each.split()) for each in (sample.question, *sample.sentences)]
    times = reading_times(words)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(13.5, 4.6), layout="constrained", width_ratios=(2.2, 1)
    )
    labels = ["question", *(f"{index}" for index in range(1, len(sample.sentences) + 1))]
    for index, (label, end) in enumerate(zip(labels, times, strict=True)):
        begin = times[index - 1] if index else 0.0
        left.barh(2, end - begin, left=begin, height=0.6, color="#b8c4d6", edgecolor="white")
        left.text((begin + end) / 2, 2, label, ha="center", va="center", fontsize=9)
    for row, found in ((1, streaming), (0, batch)):
        for index, (begin, end) in enumerate(zip(found.starts, found.ends, strict=True)):
            last = index == len(found.starts) - 1
            color = "#c44e52" if last else "#4c72b0"
            left.barh(row, end - begin, left=begin, height=0.6, color=color, edgecolor="white")
        left.annotate(
            f"{found.after_last:.1f} s",
            (found.ends[-1], row),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    left.axvline(times[-1], color="gray", linestyle=":", linewidth=1)
    left.set_yticks([2, 1, 0], ["text arrives", "thinks while reading", "thinks afterwards"])
    left.set_xlabel("seconds; thoughts blue, deep part and answer red")
    left.spines[["top", "right"]].set_visible(False)
    for index, name in enumerate(("thinks while reading", "thinks afterwards")):
        right.plot(list(by_count), [each[index] for each in by_count.values()], marker="o", label=name)
    right.set_xlabel("sentences")
    right.set_title("seconds from the last word to the answer", fontsize=11)
    right.set_ylim(bottom=0)
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / f"{SYSTEM}-timeline.png", dpi=120)
    pyplot.close(figure)


def part_length() -> list[Row]:
    """Memory and time a token along an endless stream of passages, and within one passage."""
    op = StreamingThinking.from_model(
        *tiny_thinker(),
        source_tokens=256,
        max_sentences=8,
        max_sentence=64,
        max_unit_tokens=4,
        max_new_tokens=8,
    )
    session = Session(op)
    session.push(Query("How many?"))
    text, points, spent, spoken = "Ann has 12. Ben has 3 more than Ann. It is cold. Cat has 4. ", [], 0.0, 0
    while session.time < LENGTHS:
        began = time.process_time()  # the machine may be busy
        session.push(Text(text))
        while session.poll():
            pass
        spent += time.process_time() - began
        if len(points) * LENGTHS / 100 < session.time:
            done = session.state.spoken - spoken
            points.append(Point(session.time, 1000 * spent / max(1, done), session.nbytes, None))
            spent, spoken = 0.0, session.state.spoken
            if len(points) % 20 == 0:
                progress(f"length: {session.time:,.0f} of {LENGTHS:,} characters")
    plot(IMAGES / f"{SYSTEM}-length.png", {SYSTEM: points}, unit="token", along="characters")
    early, late = (
        float(np.median([each.milliseconds for each in part])) for part in (points[2:22], points[-20:])
    )
    return [
        Row(
            "memory and time a token do not grow with the stream",
            "not in the paper: caches grow with the problem",
            "bytes and ms after the first fifth",
            {"bytes": points[2].nbytes, "ms": round(early, 2)},
            {"bytes": points[-1].nbytes, "ms": round(late, 2)},
            "bytes, ms a written token",
            f"tiny random model, {LENGTHS:,} characters, passages of 8 sentences, reading included",
        )
    ]


def part_threads() -> list[Row]:
    """Reader and writer in two threads say what one thread says."""
    loaded = arm_model(OURS)
    assert loaded is not None
    equal, samples = 0, problems(count=20)
    for sample in samples:
        said = []
        for concurrent in (False, True):
            made = StreamingThinker(
                *loaded,
                question=sample.question,
                temperature=0.6,
                source_tokens=256,
                max_sentences=8,
                max_unit_tokens=24,
                max_new_tokens=64,
                concurrent=concurrent,
            )
            for sentence in sample.sentences:
                made.feed(sentence, whole=True)
            made.close()
            said.append([each.ids for each in made])
        equal += said[0] == said[1]
    return [
        Row(
            "two threads over shared caches write the same tokens as one",
            "parallel KV caches",
            "one thread, problems",
            len(samples),
            equal,
            "problems with equal tokens",
            f"{OURS}, {len(samples)} test problems, temperature 0.6, top-p 0.95, top-k 20",
        )
    ]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "quality": part_quality,
    "latency": part_latency,
    "length": part_length,
    "threads": part_threads,
    "operator": part_operator,
    "shipped": part_shipped,
    "accuracy": part_accuracy,
}


def main() -> int:
    """Run the parts that have no rows yet (or those of `--only`, `--again` for all) and store their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=sorted(PARTS), action="append", help="run these parts, whatever is stored"
    )
    parser.add_argument("--again", action="store_true", help="run everything anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    path = RESULTS / f"{SYSTEM}.json"
    done = {row["command"] for row in json.loads(path.read_text())} if path.is_file() else set()
    for name, part in PARTS.items():
        command = f"python benchmarks/streaming_thinker.py --only {name}"
        if options.only and name not in options.only:
            continue
        if not options.only and not options.again and command in done:
            progress(f"{name}: rows are stored (--again runs it anew)")
            continue
        progress(name)
        store(SYSTEM, part(), command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
