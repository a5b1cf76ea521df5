"""Claims of group position encoding (Tong et al. 2025), each a part of its own: `--only PART`.

The arms are trained by scripts/train_tiny_translation.py (about 12 CPU minutes, once). Settings, seeds and baselines
are the constants below. The part `real` needs peft and, for its scores of text, sacrebleu.
"""

import copy
import gettext
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "scripts"))

import numpy as np
import torch
import train_tiny_translation as arms
from command import progress, run
from rows import RESULTS, Row

from unending.cli.monitor import Sample
from unending.cli.pictures import plot
from unending.core import Session, Text
from unending.core.random import philox
from unending.parts import backbones, emission
from unending.parts.emission import WaitK
from unending.parts.memory import DualCache
from unending.parts.training import Recipe, train
from unending.parts.transcript import Batch
from unending.systems.language.group_position_encoding import (
    ArrivalPositions,
    GroupPositionEncoding,
    GroupPositions,
    Limits,
    ReencodedPositions,
    StreamingGenerator,
    StreamingSFTCollator,
    Template,
)
from unending.systems.language.group_position_encoding import positions as encoding
from unending.systems.language.group_position_encoding.training import (
    drawn,
    held_out_loss,
    low_rank,
    objective,
)

SYSTEM = "group-position-encoding"
IMAGES = RESULTS.parents[1] / "docs" / "images"
KS = (1, 3, 5, 7)
SENTENCES = 30
JUDGED = 256
"""Sentences of a teacher-forced comparison."""
LENGTHS = (16, 64, 128, 256, 512)
STREAM_WORDS = (100, 1_000, 4_000)
LANGUAGE, WORDS, PAIRS_HELD_OUT = "de", (4, 10), 100
INSTRUCTION = "Translate to German:"
REAL = Recipe(steps=40, peak=5e-4, decay=0.0, seed=0, warmup=5)
REAL_ROWS, REAL_K, REAL_RANK, REAL_WRITTEN = 4, 3, 16, 20
SETTING = (
    f"synthetic pairs of 8 to 24 words ({arms.TASK.words} in the dictionary), 650,112 parameters, batch stage"
    f" {arms.BATCH_RECIPE.steps} steps, every arm {arms.TUNING.steps} steps of {arms.ROWS} sentences"
)


def positions_of(mode: str, phi: int) -> Any:
    return {
        "group": GroupPositions(phi),
        "batch-streaming": ReencodedPositions(),
        "interleaved": ArrivalPositions(True),
        "interleaved-mask": ArrivalPositions(False),
    }[mode]


def part_arms() -> list[Row]:
    """Quality against lag of the arms that were trained at one lag, written by the real automaton."""
    return _compared("", "trained at k = 5")


def part_arms_multi() -> list[Row]:
    """The same of those that were trained at all the lags that are measured."""
    return _compared("-multi", "trained at k = 1, 3, 5, 7 by turns")


def _compared(suffix: str, lags: str) -> list[Row]:
    torch.set_num_threads(1)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, (mode, phi, _) in arms.ARMS.items():
        if name.endswith("-multi") == bool(suffix):
            model, _ = arms.arm(name)
            found[name] = {k: arms.streamed(model, positions_of(mode, phi), k, SENTENCES) for k in KS}
            progress(f"{name}: {found[name]}")
    model, _ = arms.arm("batch")
    whole = arms.streamed(model, ReencodedPositions(), 99, SENTENCES)["accuracy"]
    setting = f"{SETTING}; {lags}; {SENTENCES} sentences"

    def accuracy(name: str) -> dict[str, float]:
        return {f"k={k}": found[name][k]["accuracy"] for k in KS}

    def compared(claim: str, paper: str, peer: str, ours: str) -> Row:
        return Row(claim, paper, peer, accuracy(peer), accuracy(ours), "word accuracy", setting)

    group, masked = f"group{suffix}", f"interleaved-mask{suffix}"
    rows = [
        Row(
            f"{_CURVE}{name}",
            "curves of BLEU over AL",
            "batch stage, whole sentence read first, word accuracy",
            whole,
            {f"k={k}": values for k, values in by_k.items()},
            "word accuracy, AL and LAAL in words",
            setting,
            "a modifier needs one word of lookahead, so k = 1 has a ceiling",
        )
        for name, by_k in found.items()
    ]
    rows += [
        compared(
            "removing the input-attention mismatch helps arrival order",
            "up to +2.20 BLEU",
            f"interleaved{suffix}",
            masked,
        ),
        compared("group positions beat arrival order", "better at equal lag", f"interleaved{suffix}", group),
        compared(
            "group positions are as good as encoding the target again after every read",
            "within 0.28 BLEU",
            f"batch-streaming{suffix}",
            group,
        ),
    ]
    for name in sorted(each for each in found if "phi" in each):
        claim = f"phi changes little: {name.removeprefix('group-phi')} against 0"
        rows.append(compared(claim, "little change from 0 to 512", group, name))
    return rows


_CURVE = "quality against lag: "


def draw() -> None:
    """Quality against lag, of the rows that are stored."""
    from matplotlib import pyplot

    stored = json.loads((RESULTS / f"{SYSTEM}.json").read_text(encoding="utf-8"))
    curves = [row for row in stored if row["claim"].startswith(_CURVE)]
    if not curves:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    titles = "trained at k = 5", "trained at k = 1, 3, 5, 7"
    for axis, title, several in zip(axes, titles, (False, True), strict=True):
        for row in curves:
            name = row["claim"].removeprefix(_CURVE)
            if name.endswith("-multi") == several:
                points = list(row["ours"].values())
                label = name.removesuffix("-multi")
                axis.plot([p["AL"] for p in points], [p["accuracy"] for p in points], marker="o", label=label)
        whole = curves[0]["peer_value"]
        axis.axhline(whole, color="grey", linestyle="--", linewidth=1, label="batch, whole sentence")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("average lagging, words")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("word accuracy")
    axes[0].legend(fontsize=8)
    figure.savefig(IMAGES / f"{SYSTEM}-lag.png", dpi=110)
    pyplot.close(figure)


@torch.no_grad()
def forced(model: Any, batch: Batch, positions: torch.Tensor | None = None) -> float:
    """Share of target tokens that are the likeliest, teacher-forced, without those of the header."""
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions if positions is None else positions,
        use_cache=False,
    ).logits
    picked = logits.gather(1, batch.rows[..., None].expand(-1, -1, logits.shape[-1])).argmax(-1)
    counted = batch.labels != -100
    counted[:, :2] = False
    return round((picked == batch.labels)[counted].float().mean().item(), 3)


def part_controls() -> list[Row]:
    """What about the positions matters, without training again; and what is left of the batch model."""
    torch.set_num_threads(1)
    sentences = arms.TASK.sentences(arms.HELD_OUT, 10**6, JUDGED)
    rows = []
    for name in ("group", "group-phi512"):
        model, _ = arms.arm(name)
        phi = arms.ARMS[name][1]
        frame = arms.template(model)
        batch = StreamingSFTCollator(frame, 5, phi).batch(sentences)
        sources = torch.tensor([len(frame.transcript(*pair).source_ids) for pair in sentences])
        target = torch.arange(batch.ids.shape[1]) >= sources[:, None]
        shuffled = batch.positions.clone()
        for index, n in enumerate(sources.tolist()):
            shuffled[index, :n] = shuffled[index, philox(0, index).permutation(n)]
        found = {
            "as trained": forced(model, batch),
            "source ids shuffled": forced(model, batch, shuffled),
            "both groups moved by 100": forced(model, batch, batch.positions + 100),
            "target moved by 1": forced(model, batch, batch.positions + target),
            "target moved by 8": forced(model, batch, batch.positions + 8 * target),
            "target moved by 64": forced(model, batch, batch.positions + 64 * target),
        }
        progress(f"{name}: {found}")
        setting = f"{SETTING}; phi {phi}, {JUDGED} sentences, no training after the change"
        unit, trained = "token accuracy, teacher-forced, k = 5", found.pop("as trained")
        shuffled_ids = found.pop("source ids shuffled")
        rows += [
            Row(
                "order inside a group matters: shuffled ids are a collapse",
                "collapse",
                "as trained",
                trained,
                shuffled_ids,
                unit,
                setting,
            ),
            Row(
                "moving the groups changes little",
                "little change",
                "as trained",
                trained,
                found,
                unit,
                setting,
                "holds for both groups together, which rotary attention cannot tell; for the target alone it is not"
                " shown without training, and holds when trained so (phi 64, phi 512)",
            ),
        ]
    batch_model, _ = arms.arm("batch")
    plain = StreamingSFTCollator(arms.template(batch_model), mode="batch").batch(sentences)
    kept = {}
    for name in ("group", "group-multi", "group-phi64", "group-phi512"):
        model, _ = arms.arm(name)
        whole = StreamingSFTCollator(arms.template(model), 99, arms.ARMS[name][1]).batch(sentences)
        kept[name] = {
            "whole source, group ids": forced(model, whole),
            "plain batch ids": forced(model, plain),
        }
    progress(str(kept))
    rows.append(
        Row(
            "the same weights still work in batch mode",
            "yes",
            "batch stage, plain batch ids",
            forced(batch_model, plain),
            kept,
            "token accuracy, teacher-forced",
            f"{SETTING}; {JUDGED} sentences",
            "with plain ids not shown: fine-tuning this small model at this rate overwrites its batch layout",
        )
    )
    return rows


def part_growth() -> list[Row]:
    """Time of a word and memory against the length of a passage, and against the length of a stream."""
    torch.set_num_threads(1)
    model, _ = arms.arm("group")
    measured: dict[str, list[Sample]] = {}
    for name, positions in (("group", GroupPositions()), ("batch-streaming", ReencodedPositions())):
        cache = DualCache.of(model, LENGTHS[-1] + 1, LENGTHS[-1] + 1, segments=LENGTHS[-1] + 1)
        spent, samples, target = [], [], [300]
        for length in range(1, LENGTHS[-1] + 1):
            began = time.perf_counter()
            cache.mode = "read"
            encoding.run(model, [270 + length % 100], positions.view(cache))
            positions.after_read(cache)
            cache.mode = "write"
            encoding.run(model, target[cache.target_count :], positions.view(cache))
            target.append(300 + length % 50)
            spent.append(1000 * (time.perf_counter() - began))
            if length % 16 == 0:
                held = cache.memory()
                used = sum(
                    2 * each.numel() // each.shape[2] * each.itemsize * count
                    for keys, count in (
                        (held.source_keys, cache.source_count),
                        (held.target_keys, cache.target_count),
                    )
                    for each in keys
                )
                samples.append(Sample(length, float(np.median(spent[-16:])), used, None))
        measured[name] = samples
        progress(f"{name}: {[round(s.milliseconds, 2) for s in samples if s.position in LENGTHS]} ms a word")
    plot(IMAGES / f"{SYSTEM}-growth.png", measured, unit="word", along="words of one passage")
    at = {
        name: {str(s.position): round(s.milliseconds, 2) for s in samples if s.position in LENGTHS}
        for name, samples in measured.items()
    }
    rows = [
        Row(
            "nothing is encoded twice: time of a word grows with attention alone",
            "no re-encoding",
            "encoding the target again after every read",
            at["batch-streaming"],
            at["group"],
            "ms a word (one source token read, one target token written), by words of the passage",
            "the trained shape, 650,112 parameters, medians of 16 words",
        )
    ]
    operator = GroupPositionEncoding()
    session, done, spent, found = Session(operator), 0, [], {}
    sentences = arms.TASK.sentences(arms.HELD_OUT, 3, STREAM_WORDS[-1] // 8)
    for source, _ in sentences:
        began = time.perf_counter()
        session.push(Text(" ".join(source) + "\n"))
        while session.poll():
            pass
        spent.append(1000 * (time.perf_counter() - began) / len(source))
        before, done = done, done + len(source)
        for mark in STREAM_WORDS:
            if before < mark <= done:
                found[f"{mark:,}"] = [round(float(np.median(spent[-8:])), 1), session.nbytes]
                progress(f"{mark:,} words: {found[f'{mark:,}']}")
        if done >= STREAM_WORDS[-1]:
            break
    rows.append(
        Row(
            "an endless stream of passages costs the same everywhere",
            "not in the paper (its memory grows)",
            "bound in bytes",
            operator.bound().resident,
            found,
            "ms a source word (median of 8 lines) and bytes, by words of the stream",
            "tiny-translation, k = 5, a line a passage",
        )
    )
    return rows


def part_latency() -> list[Row]:
    """The latency metrics against simuleval's, where it is installed."""
    if importlib.util.find_spec("simuleval") is None:
        progress("simuleval is not installed: pip install simuleval, in an environment of its own")
        return []
    from types import SimpleNamespace

    from simuleval.evaluator.scorers import latency_scorer as theirs

    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(2000):
        source, written, wanted = (int(n) for n in rng.integers(1, 40, 3))
        delays = np.sort(rng.integers(1, source + 6, size=written)).tolist()
        instance = SimpleNamespace(delays=delays, reference="", reference_length=wanted, source_length=source)
        pairs = [
            (theirs.ALScorer, emission.average_lagging(delays, source, wanted)),
            (theirs.LAALScorer, emission.laal(delays, source, wanted)),
            (theirs.APScorer, emission.average_proportion(delays, source, wanted)),
            (theirs.DALScorer, emission.differentiable_average_lagging(delays, source)),
        ]
        worst = max(worst, *(abs(scorer().compute(instance) - ours) for scorer, ours in pairs))
    return [
        Row(
            "AL, LAAL, AP and DAL are simuleval's",
            "simuleval",
            "simuleval, largest difference",
            0,
            worst,
            "words",
            "2,000 random delays",
        )
    ]


def catalogue_pairs(language: str) -> list[tuple[list[str], list[str]]]:
    """Sentences of the message catalogues of this system with their translations, plain ones of 4 to 10 words."""
    texts: dict[str, str] = {}
    for path in sorted(Path("/usr/share/locale").glob(f"{language}/LC_MESSAGES/*.mo")):
        try:
            with path.open("rb") as file:
                entries = vars(gettext.GNUTranslations(file))["_catalog"]
        except (OSError, UnicodeDecodeError):
            continue
        for source, target in entries.items():
            if isinstance(source, str) and target and source != target:
                texts.setdefault(source, target)
    low, high = WORDS
    pairs = []
    for source, target in texts.items():
        odd = re.search(r"[\n\t\d%<>{}\\|_@=/\[\]`*#$~^&]|--|\.\.", source + target)
        words = source.split(), target.split()
        if not odd and all(low <= len(each) <= high for each in words):
            pairs.append(words)
    return pairs


def part_real() -> list[Row]:
    """SmolLM2 with low-rank adapters on message catalogues: group positions against arrival order."""
    torch.set_num_threads(1)
    found = catalogue_pairs(LANGUAGE)
    if len(found) < 1000:
        progress(f"{len(found)} pairs in the {LANGUAGE} catalogues of /usr/share/locale are too few: skipped")
        return []
    if importlib.util.find_spec("peft") is None:
        progress("peft is not installed: pip install peft; skipped")
        return []
    order = philox(0, 0).permutation(len(found))
    pairs = [found[index] for index in order]
    judged, trained = pairs[:PAIRS_HELD_OUT], pairs[PAIRS_HELD_OUT:]
    results: dict[str, dict[str, Any]] = {}
    for mode in ("group", "interleaved"):
        backbone = backbones.load("smollm2-135m")
        frame = Template.of(backbone, INSTRUCTION)
        collator = StreamingSFTCollator(frame, REAL_K, mode=mode)
        model: Any = copy.deepcopy(backbone.module)
        before = held_out_loss(model, collator, judged)
        model = low_rank(model, REAL_RANK, 2 * REAL_RANK, 0.0, 0)
        folder = arms.CHECKPOINTS.parent / f"{SYSTEM}-real-{mode}"
        done = train(
            model,
            drawn(collator, trained, REAL_ROWS),
            objective,
            REAL,
            folder,
            every=5,
            title=f"real, {mode}",
        )
        after = held_out_loss(model, collator, judged)
        results[mode] = {"before": round(before, 3), "after": round(after, 3)}
        results[mode] |= _scored(model.merge_and_unload(), frame, positions_of(mode, 0), judged)
        progress(f"{mode}: {results[mode]}, {done.cpu_seconds:.0f} CPU seconds")
    return [
        Row(
            "on real text group positions beat arrival order at equal budget",
            "better BLEU at equal lag (IWSLT-17, 2B to 8B parameters)",
            "interleaved",
            results["interleaved"],
            results["group"],
            "held-out loss in nats a target token, before and after; chrF and BLEU",
            f"smollm2-135m, {len(found):,} pairs of {LANGUAGE} message catalogues, {REAL.steps} steps of"
            f" {REAL_ROWS} pairs, rank {REAL_RANK}, k = {REAL_K}; {PAIRS_HELD_OUT} pairs held out,"
            f" {REAL_WRITTEN} of them translated",
            "not shown: even after so few steps; the groups begin further from what the model knows and come as far",
        )
    ]


def _scored(model: Any, frame: Template, positions: Any, judged: list[Any]) -> dict[str, Any]:
    """chrF, BLEU and average lagging of some held-out sentences, where sacrebleu is installed."""
    if importlib.util.find_spec("sacrebleu") is None:
        progress("sacrebleu is not installed: no chrF and BLEU")
        return {}
    import sacrebleu

    frame = Template(
        backbones.LanguageBackbone("", model, frame.backbone.tokenizer, ""),
        frame.prompt,
        frame.end,
        frame.header,
        frame.stop,
    )
    generator = StreamingGenerator(
        model, policy=WaitK(REAL_K), positions=positions, template=frame, limits=Limits(20, 40)
    )
    written, wanted, lag = [], [], []
    for source, target in judged[:REAL_WRITTEN]:
        generator.translate(source)
        written.append(generator.text)
        wanted.append(" ".join(target))
        if generator.delays:
            lag.append(emission.average_lagging(generator.delays, len(source), len(target)))
    progress(json.dumps(list(zip(written, wanted, strict=True))[:4], ensure_ascii=False))
    return {
        "chrF": round(sacrebleu.corpus_chrf(written, [wanted]).score, 1),
        "BLEU": round(sacrebleu.corpus_bleu(written, [wanted]).score, 1),
        "AL": round(float(np.mean(lag)), 2),
    }


PARTS: dict[str, Callable[[], list[Row]]] = {
    "latency": part_latency,
    "growth": part_growth,
    "controls": part_controls,
    "arms": part_arms,
    "arms-multi": part_arms_multi,
    "real": part_real,
}


if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS, draw))
