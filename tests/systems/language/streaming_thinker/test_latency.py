import numpy as np
import pytest

from unending.core.errors import InputError
from unending.parts.transcript import Transcript
from unending.systems.language.streaming_thinker import Rates, Trace, reading_times, simulate_latency


def trace(streaming):
    # Instruction 2, question 4, two sentences of 6, end of turn 1; header 2, restated 3, thoughts of 10, the rest 20.
    source, target = ([np.zeros(n) for n in sizes] for sizes in ((2, 4, 6, 6, 1), (2, 3, 10, 10, 20)))
    return Trace.of(Transcript(tuple(source), tuple(target)), streaming=streaming)


ARRIVALS = (1.0, 5.0, 9.0, 9.0)


def test_thinking_while_reading_by_hand():
    found = simulate_latency(ARRIVALS, Rates(decode=10), trace(True))
    assert found.starts == pytest.approx((1.0, 5.0, 9.0, 10.0))
    assert found.ends == pytest.approx((1.3, 6.0, 10.0, 12.0))
    assert (found.tokens_before, found.onset) == (6, 1.0)
    assert found.after_last == pytest.approx(3.0)


def test_thinking_afterwards_by_hand():
    found = simulate_latency(ARRIVALS, Rates(decode=10), trace(False))
    assert (found.tokens_before, found.onset) == (19, 9.0)
    assert found.after_last == pytest.approx(4.3)


def test_a_slow_writer_falls_behind_and_a_slow_reader_is_waited_for():
    slow = simulate_latency(ARRIVALS, Rates(decode=1), trace(True))
    assert slow.starts == pytest.approx((1.0, 5.0, 15.0, 25.0))
    reader = simulate_latency((0.0, 0.0, 0.0, 0.0), Rates(decode=1000, prefill=1), trace(True))
    assert reader.starts == pytest.approx((6.0, 12.0, 18.0, 19.0))


def test_delay_is_not_counted_in_tokens_alone():
    """The same number of tokens before the first thought, at two reading speeds."""
    fast, slow = (simulate_latency(np.array(ARRIVALS) * pace, Rates(), trace(True)) for pace in (1, 2))
    assert fast.tokens_before == slow.tokens_before
    assert slow.onset == 2 * fast.onset


def test_reading_times():
    assert reading_times([4, 8], 4.0).tolist() == [1.0, 3.0]
    with pytest.raises(InputError):
        reading_times([1], 0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="do not fit"):
        simulate_latency(ARRIVALS[:2], Rates(), trace(True))
    with pytest.raises(InputError, match="ascending"):
        simulate_latency((2.0, 1.0, 3.0, 3.0), Rates(), trace(True))
    with pytest.raises(InputError, match="above 0"):
        Rates(decode=0)
