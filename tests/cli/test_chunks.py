"""The chunks of a run are together the run; their length follows from a clock that the tests set."""

from types import SimpleNamespace

import pytest

from purejaxppo.cli import chunks
from purejaxppo.config.schema import Config, Run


def run_of(num_updates):
    return Run(config=Config(num_envs=4, num_steps=4, num_minibatches=1, total_timesteps=16 * num_updates))


@pytest.fixture
def train(monkeypatch):
    """Return a function that runs chunks over a state that counts updates -> lengths of the chunks.

    An update takes `seconds` on the clock, and the first chunk a quarter of a second more, as if it was compiled.
    """
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(chunks, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(chunks, "CHUNK_SECONDS", 1.0)
    seen = SimpleNamespace(sizes=set(), checked=[], begun=[])

    def init_state(algo, key, h):
        seen.begun.append(h)
        return 0

    def train(num_updates, seconds, state=None, done=0, last=None, until_due=lambda done: None):
        compile_seconds = [0.25]

        def iterate(algo, state, h, num_updates, chunk):
            assert 1 <= num_updates <= chunk
            seen.sizes.add(chunk)
            clock.now += num_updates * seconds + (compile_seconds.pop() if compile_seconds else 0.0)
            yield state + num_updates, num_updates

        monkeypatch.setattr("purejaxppo.training.loop.iterate", iterate)
        run = run_of(num_updates)
        made = list(chunks.chunks(run, None, state, done, num_updates if last is None else last, until_due))
        lengths = [length for _, length in made]
        assert [state for state, _ in made] == [(state or 0) + sum(lengths[: i + 1]) for i in range(len(lengths))]
        return lengths

    monkeypatch.setattr("purejaxppo.training.loop.init_state", init_state)
    monkeypatch.setattr("purejaxppo.training.memory.check_update_memory", lambda *given: seen.checked.append(given[-1]))
    train.seen = seen
    return train


def test_a_chunk_takes_about_the_wanted_time(train):
    """The first chunk is compiled, so only the second one shows how fast the run is: 8 updates a second."""
    assert train(1000, 1 / 8) == [1, 1, *[8] * 124, 6]
    assert train.seen.sizes == {10}
    assert train.seen.checked == [10]


def test_chunks_grow_eightfold_at_most_and_up_to_a_hundredth_of_the_run(train):
    assert train(10_000, 1 / 1024)[:6] == [1, 1, 8, 64, 100, 100]


def test_a_slow_update_is_a_chunk_by_itself(train):
    assert train(30, 64.0) == [1] * 30


def test_a_chunk_ends_where_something_is_due(train):
    lengths = train(1000, 1 / 1024, until_due=lambda done: 5 - done % 5)
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    assert set(range(5, 1001, 5)) <= set(ends)


def test_a_resumed_run_goes_on_from_its_state_and_stops_where_it_is_to(train):
    assert sum(train(1000, 1 / 8, state=7, done=7, last=20)) == 13
    assert train.seen.begun == []
    assert train.seen.sizes == {10}


def test_a_run_that_is_done_has_no_chunk_and_compiles_nothing(train):
    assert train(30, 1.0, state=30, done=30) == []
    assert train.seen.checked == []


def test_a_chunk_has_room_for_a_limited_number_of_updates(train):
    """The metrics of a hundredth of 10⁹ updates would not fit in memory."""
    assert train(10**9, 1.0, last=1) == [1]
    assert train.seen.sizes == {chunks.MAX_CHUNK}
