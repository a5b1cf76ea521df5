"""The generator over any rotary model: words in, words out, delays, limits."""

import pytest
import torch
from tests.systems.language.group_position_encoding.forcing import (
    CONFIGS,
    SOURCE,
    TARGET,
    forced,
    frame,
    model,
    runner,
    writer,
)

from unending.core.errors import CapacityError, InputError, ModelUnsupportedError, SessionClosedError
from unending.parts.backbones.tiny import byte_tokenizer
from unending.parts.emission import SentenceBoundary, UserPolicy, WaitK
from unending.systems.language.group_position_encoding import (
    ArrivalPositions,
    GroupPositions,
    Limits,
    ReencodedPositions,
    StreamingGenerator,
    StreamingSFTCollator,
)
from unending.systems.language.group_position_encoding.naive import masked_logits


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def generator(kind="llama", policy=None, positions=None, **settings):
    settings = {"limits": Limits(4, 24), "template": frame(kind)} | settings
    return StreamingGenerator(model(kind), byte_tokenizer(), policy or WaitK(2), positions, **settings)


@pytest.mark.parametrize("kind", CONFIGS)
def test_words_pushed_one_by_one_or_at_once_give_the_same_words(kind):
    whole, piecewise = generator(kind), generator(kind)
    wanted = whole.translate(SOURCE)
    for word in SOURCE:
        piecewise.push([word])
        list(piecewise)
    assert [word.delay for word in piecewise.words][:2] == [2, 3]
    piecewise.finish()
    list(piecewise)
    assert piecewise.words == wanted
    assert piecewise.delays == [min(2 + i, len(SOURCE)) for i in range(len(wanted))][: len(piecewise.delays)]
    assert piecewise.text == "".join(word.text for word in wanted).strip()


def test_every_choice_is_that_of_one_masked_pass():
    """Greedy, checked afterwards: the ids that came out are the likeliest under the mask of their delays."""
    made = generator()
    made.translate(SOURCE)
    source = [token for segment in frame().transcript(SOURCE, ["x"]).source for token in segment]
    ends = [len(frame().prompt)]
    for word in SOURCE:
        ends.append(ends[-1] + len(frame().word(word)))
    header, target, seen = frame().header, list(frame().header), [ends[1]] * (len(frame().header) - 1)
    assert len(header) == 2
    for word in made.words:
        visible = len(source) if word.delay == len(SOURCE) and len(made.words) > 4 else ends[word.delay]
        if word.delay == len(SOURCE):
            break
        for token in word.ids:
            now = [*seen, visible]
            assert int(masked_logits(model(), source, target, now, 0)[-1].argmax()) == token
            seen, target = now, [*target, token]


def test_policies_decide_by_words():
    made = generator(policy=SentenceBoundary())
    made.push(["the", "old"])
    assert list(made) == []
    made.push(["cat.", "sat"])
    assert next(iter(made)).delay == 3
    every_two = generator(policy=UserPolicy(lambda now: now.read >= 2 * (now.written + 1)))
    every_two.translate(SOURCE)
    assert every_two.delays[:2] == [2, 4]


def test_reencoding_with_all_read_is_plain_decoding():
    """A baseline by the same automaton: with the whole source first it is the model's own greedy decoding."""
    made = generator(positions=ReencodedPositions(), policy=WaitK(99), limits=Limits(50, 12))
    made.translate(SOURCE)
    source = frame().transcript(SOURCE, ["x"]).source_ids.tolist()
    ids = torch.tensor([[*source, *frame().header]])
    plain = (
        model()
        .generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=256
        )[0, ids.shape[1] :]
        .tolist()
    )
    got = [token for word in made.words for token in word.ids]
    assert got == [token for token in plain if token != 256][: len(got)]
    assert got


@pytest.mark.parametrize("k", [1, 2, 6, 99])
@pytest.mark.parametrize("sees", [True, False])
def test_arrival_order_is_its_mask(sees, k):
    """The interleaved baselines against one pass over the arrival layout."""
    mode = "interleaved" if sees else "interleaved-mask"
    batch = StreamingSFTCollator(frame(), k, mode=mode).batch([(SOURCE, TARGET)])
    with torch.no_grad():
        logits = model()(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).logits[0]
    n = len(frame().transcript(SOURCE, TARGET).source_ids)
    call = runner(frame(), "router", ArrivalPositions(sees))
    got, _ = forced(writer(frame(), WaitK(k), header_first=True), SOURCE, TARGET, call)
    assert torch.allclose(got, logits[n:-1], atol=1e-5)


def test_phi_and_header_mode_reach_the_model():
    texts = {
        generator(positions=GroupPositions(phi), header_mode=mode).translate(SOURCE)[0].ids
        for phi, mode in ((0, "exact"), (64, "exact"), (0, "upstream"))
    }
    assert len(texts) > 1


def test_a_passage_has_limits():
    made = generator(source_capacity=24, target_capacity=24)
    with pytest.raises(CapacityError, match="do not fit in the 24 tokens"):
        made.push(["averyveryverylongword", "andanother"])
    made.push(["the", "old"])
    made.finish()
    list(made)
    assert made.cache.target_count <= 24
    with pytest.raises(SessionClosedError, match="reset"):
        made.push(["more"])
    made.reset()
    made.push("on we go")
    for name in ("sideways", ""):
        with pytest.raises(InputError, match="header_mode"):
            generator(header_mode=name)
    with pytest.raises(InputError, match="phi is -1"):
        GroupPositions(-1)


def test_a_target_ends_when_it_runs_too_far_ahead():
    made = generator(policy=WaitK(1), limits=Limits(2, 1000), target_capacity=1000)
    made.translate(SOURCE[:1])
    assert len(made.words) <= 102


def test_a_tokenizer_must_be_there():
    with pytest.raises(ModelUnsupportedError, match="no tokenizer"):
        StreamingGenerator(model(), None)
