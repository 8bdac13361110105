"""Turns: there and back, in blocks, after a warm-up."""

from __future__ import annotations

from natsel.common.timing import LEAST, quartiles, take_turns


def test_steps_take_turns_there_and_back() -> None:
    calls: list[str] = []
    steps = [lambda name=name: calls.append(name) for name in "abc"]
    times = take_turns(steps, repeats=3, block=2, warm_up=1)
    assert "".join(calls) == "abc" + "aabbcc" + "ccbbaa" + "aabbcc"
    assert times.shape == (3, 3)
    assert (times >= LEAST / 2).all()


def test_a_step_may_be_prepared_untimed(monkeypatch) -> None:
    calls: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr("natsel.common.timing.time.process_time", lambda: float(next(clock)))
    steps = [lambda name=name: calls.append(name) for name in "ab"]
    times = take_turns(steps, repeats=2, prepare={1: lambda: calls.append("-")})
    assert "".join(calls) == "a-b" + "-ba"
    assert times.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_step_takes_its_processor_time(monkeypatch) -> None:
    clock = iter([0.0, 4.0, 10.0, 11.0])
    monkeypatch.setattr("natsel.common.timing.time.process_time", lambda: next(clock))
    times = take_turns([lambda: None, lambda: None], repeats=1, block=2)
    assert times.tolist() == [[2.0, 0.5]]


def test_quartiles_by_hand() -> None:
    found = quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found == {"ratio": 3.0, "quartile_low": 2.0, "quartile_high": 4.0}
