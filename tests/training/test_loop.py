"""Ways to run `update`: equal results, one compilation, constant memory, no transfer to the host, faults."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from compiles import count_compiles
from descent import descent
from plain_net import plain
from probes import chain
from slow import slow_except

import purejaxppo as pp
from purejaxppo import Config, ConfigError, Hyperparams
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.training import loop
from purejaxppo.training.health import RunError
from purejaxppo.training.loop import _chunk, _scan, as_traced

CONFIG = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 7)
ENV = chain(limit=6)
ALGO = pp.make_ppo(ENV, plain(ENV), CONFIG)
LONG = dataclasses.replace(CONFIG, total_timesteps=32 * 10**6)
H = Hyperparams(1e-2, ent_coef=0.01)


def breaking(kind, at=12):
    """Return the chain with a NaN in the observation or the reward of step `at`; no episode ends before that step."""

    def reset(key):
        return jnp.int32(0), jnp.zeros(2)

    def step(key, time, action):
        value = jnp.where(time + 1 == at, jnp.float32(jnp.nan), jnp.float32(1))
        obs = jnp.broadcast_to(value, (2,)) if kind == "observation" else jnp.zeros(2)
        reward = value if kind == "reward" else jnp.float32(1)
        flag = jnp.bool_(False)
        return time + 1, TimeStep(obs, reward, flag, flag, obs)

    return Env(reset, step, box(-1, 1, (2,)), Discrete(2), "Breaking-v0")


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole():
    return pp.train(ALGO, jax.random.key(3), H)


@pytest.mark.parametrize("chunk", slow_except([1, 3, 100], 3))
def test_iterate_equals_train_bitwise(whole, chunk):
    """For every chunk size, also if the last chunk is shorter: the same state and metrics after 7 updates."""
    pieces = list(pp.iterate(ALGO, pp.init_state(ALGO, jax.random.key(3), H), H, chunk=chunk))
    assert [len(m.kl) for _, m in pieces] == [chunk] * (7 // chunk) + ([7 % chunk] if 7 % chunk else [])
    assert_same(pieces[-1][0], whole[0])
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *(m for _, m in pieces)), whole[1])


def test_iterate_with_chunks_of_one_update_equals_train_bitwise():
    """On an algorithm that compiles at once."""
    algo = descent()._replace(config=CONFIG, env=ENV)
    state, metrics = pp.train(algo, jax.random.key(3), H)
    pieces = list(pp.iterate(algo, pp.init_state(algo, jax.random.key(3), H), H, chunk=1))
    assert len(pieces) == 7
    assert_same(pieces[-1][0], state)
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *(m for _, m in pieces)), metrics)
    assert len(set(np.asarray(metrics.total_loss).tolist())) == 7


def test_equal_seeds_give_equal_results_and_other_seeds_do_not(whole):
    assert_same(pp.train(ALGO, jax.random.key(3), H), whole)
    other = pp.train(ALGO, jax.random.key(4), H)[1]
    assert not np.array_equal(other.value_loss, whole[1].value_loss)


def test_iterate_continues_from_any_state(whole):
    first = None
    for state, _ in pp.iterate(ALGO, pp.init_state(ALGO, jax.random.key(3), H), H, num_updates=3, chunk=3):
        first = state
    rest = list(pp.iterate(ALGO, first, H, chunk=3))
    assert sum(len(m.kl) for _, m in rest) == 4  # the rest of the declared total
    assert_same(rest[-1][0], whole[0])


@pytest.mark.parametrize("num_devices", [1, 2])
def test_one_compile_per_run(num_devices):
    """All chunks, the short last one too, separate calls, and a second run with other values are one program."""
    config = dataclasses.replace(CONFIG, num_steps=4, total_timesteps=16 * 5, num_devices=num_devices)
    algo = pp.make_ppo(ENV, plain(ENV), config)
    with count_compiles() as compiles:
        state = pp.init_state(algo, 0, H)
        for _ in range(3):
            state, _ = next(pp.iterate(algo, state, H, 1, chunk=2))
        h = H._replace(learning_rate=jnp.float32(0.1), clip_eps=1)
        *_, (state, _) = pp.iterate(algo, pp.init_state(algo, 1, h), h, chunk=2)
        assert (compiles["init"], compiles["_init"], compiles["_chunk"]) == (0, 1, 1)
        for seed in (0, 1) if num_devices == 1 else ():
            pp.train(algo, seed, H)
            assert (compiles["_init"], compiles["_scan"]) == (1, 1)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(state)} == {num_devices}


def compiled(num_updates):
    config = dataclasses.replace(CONFIG, total_timesteps=32 * num_updates)
    algo = pp.make_ppo(ENV, plain(ENV), config)
    state = jax.eval_shape(algo.init, jax.random.key(0), as_traced(H))
    return _scan.lower(algo.update, num_updates, state, as_traced(H)).compile()


def test_memory_does_not_grow_with_the_number_of_updates(whole):
    """1000 updates against 10: the same scratch memory, and an output that grows by the metrics only."""
    short, long = (compiled(n).memory_analysis() for n in (10, 1000))
    assert long.temp_size_in_bytes <= short.temp_size_in_bytes + 4096
    assert long.output_size_in_bytes - short.output_size_in_bytes == 990 * 4 * len(jax.tree.leaves(whole[1]))


def test_nothing_leaves_the_device_within_a_run():
    state, h = pp.init_state(ALGO, jax.random.key(0), H), as_traced(H)
    length = jnp.int32(4)
    with jax.transfer_guard("disallow"):
        state, metrics = _chunk(ALGO.update, 5, h, state, length)
        jax.block_until_ready(metrics)
    text = _chunk.lower(ALGO.update, 5, h, state, length).as_text()
    assert "callback" not in text


def test_seeds_under_vmap_equal_single_runs(whole):
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    with jax.debug_key_reuse(False):  # JAX's reuse check counts the keys that a vmapped scan passes on as used
        state, metrics = jax.jit(jax.vmap(lambda key: pp.train(ALGO, key, H, 2)))(keys)
    np.testing.assert_allclose(metrics.value_loss[0], whole[1].value_loss[:2], rtol=1e-5)
    np.testing.assert_allclose(metrics.kl[0], whole[1].kl[:2], rtol=1e-3, atol=1e-7)
    assert state.num_updates.tolist() == [2, 2]


def test_invalid_arguments_are_refused_before_compiling():
    with pytest.raises(ValueError, match=r"8 updates.*declares 7.*total_timesteps=256.*lr_anneal=0"):
        pp.train(ALGO, jax.random.key(0), H, 8)
    with pytest.raises(ConfigError, match="gamma"):
        pp.train(ALGO, jax.random.key(0), Hyperparams(gamma=1.5))
    with pytest.raises(ConfigError, match="learning_rate"):
        pp.train(ALGO, jax.random.key(0), Hyperparams(learning_rate=float("nan")))
    with pytest.raises(TypeError, match="hyperparams must be a Hyperparams"):
        pp.train(ALGO, jax.random.key(0), CONFIG)
    with pytest.raises(ConfigError, match="num_minibatches"):
        pp.make_ppo(ENV, plain(ENV), dataclasses.replace(CONFIG, num_minibatches=5))


def test_a_chunk_larger_than_the_program_is_run_in_pieces(monkeypatch, whole):
    """A chunk of 10⁹ updates allocates nothing for updates beyond the end of the run."""
    monkeypatch.setattr(loop, "MAX_ROOM", 3)
    state = pp.init_state(ALGO, jax.random.key(3), H)
    ((state, metrics),) = pp.iterate(ALGO, state, H, chunk=10**9)
    assert_same((state, metrics), whole)


def test_a_program_has_room_for_at_most_a_whole_run(monkeypatch):
    sizes = []
    monkeypatch.setattr(loop, "_chunk", lambda update, size, *_: sizes.append(size) or (None, np.zeros(size)))
    monkeypatch.setattr(loop, "raise_if_unhealthy", lambda *_: None)
    state = jax.device_get(pp.init_state(ALGO, 3, H))
    for config, more, chunk in ((CONFIG, {}, 10**9), (CONFIG, {"num_updates": 2}, 5), (LONG, {}, 10**9)):
        next(pp.iterate(ALGO._replace(config=config), state, H, chunk=chunk, **more))
    assert sizes[:3] == [7, 5, loop.MAX_ROOM]


def test_updates_are_counted_up_to_the_limit_of_int32():
    state = pp.init_state(ALGO, 3, H)._replace(num_updates=jnp.int32(2**31 - 3))
    constant = H._replace(lr_anneal=0)
    ((state, _),) = pp.iterate(ALGO, state, constant, 2)
    assert state.num_updates == 2**31 - 1
    with pytest.raises(ValueError, match="2147483648 updates: a run has at most 2147483647"):
        pp.iterate(ALGO, state, constant, 1)
    assert list(pp.iterate(ALGO, state, constant)) == []


# --- several runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_states_of_vmapped_runs_are_continued_together(whole):
    """States [S] with a learning rate each equal single runs, and share one program."""
    states = jax.vmap(lambda seed: pp.init_state(ALGO, seed, H))(jnp.array([3, 4]))
    h = H._replace(learning_rate=jnp.array([1e-2, 2e-2]))
    # JAX's reuse check counts the keys that a vmapped scan passes on as used.
    with jax.debug_key_reuse(False), count_compiles() as compiles:
        pieces = list(pp.iterate(ALGO, states, h, num_updates=5, chunk=2))
    assert compiles["_chunks_of_runs"] == 1
    assert [m.kl.shape for _, m in pieces] == [(2, 2), (2, 2), (2, 1)]
    metrics = jax.tree.map(lambda *x: np.concatenate(x, 1), *(m for _, m in pieces))
    np.testing.assert_allclose(metrics.value_loss[0], whole[1].value_loss[:5], rtol=1e-4)
    np.testing.assert_allclose(metrics.learning_rate[1], 2 * whole[1].learning_rate[:5], rtol=1e-6)
    assert pieces[-1][0].num_updates.tolist() == [5, 5]
    returns = pp.evaluate(ALGO, pieces[-1][0], 0, num_episodes=3).returns
    assert returns.shape == (2, 3)


def test_hyperparameters_of_several_runs_have_one_value_or_one_per_run():
    states = jax.vmap(lambda seed: pp.init_state(ALGO, seed, H))(jnp.arange(2))
    with pytest.raises(ValueError, match=r"scalars or arrays of shape \(2,\), not .*learning_rate"):
        pp.iterate(ALGO, states, H._replace(learning_rate=jnp.ones(3)))


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_state_without_an_allowed_action_is_an_error_that_names_the_environment():
    """The random play of `make_ppo` ends before that state; training and evaluation reach it."""
    env = probes.dead_end(140)
    config = Config(num_envs=2, num_steps=32, num_epochs=1, num_minibatches=2, total_timesteps=64 * 5)
    algo = pp.make_ppo(env, pp.mlp(env, (4,)), config)
    what = "update 5: the environment DeadEnd-v0 allowed no action in 2 states, first in step 12 of the rollout"
    chunks = pp.iterate(algo, pp.init_state(algo, jax.random.key(0), H), H, chunk=5)
    state, metrics = next(chunks)  # the results of the chunk come before the error
    assert metrics.masked_states.tolist() == [0, 0, 0, 0, 2]
    with pytest.raises(RunError, match=what) as caught:
        next(chunks)
    assert caught.value.fault[2:] == (5, 12, 0, 2)
    with pytest.raises(RunError, match="allowed no action in 3 of 3 episodes, first in step 140 of an episode"):
        pp.evaluate(algo, state, 0, num_episodes=3)
    _, metrics = jax.jit(lambda key: pp.train(algo, key, H))(jax.random.key(0))
    assert metrics.masked_states.sum() == 2
    with pytest.raises(ValueError, match="environment DeadEnd-v0 allows no action"):
        pp.make_ppo(probes.dead_end(20), pp.mlp(env, (4,)), config)


def test_divergence_is_not_attributed_to_the_environment():
    with pytest.raises(RunError, match=r"update \d: the loss of every minibatch .*smaller learning_rate") as caught:
        pp.train(ALGO, 3, H._replace(learning_rate=1e25))
    assert caught.value.fault.kind == "loss"
    state, metrics = caught.value.result
    assert state.num_updates == len(metrics.kl) == 7


@pytest.mark.parametrize(("kind", "count"), slow_except([("observation", 8), ("reward", 4)], ("observation", 8)))
def test_the_error_names_the_environment_and_the_step_of_a_nan(kind, count):
    """Action 12 belongs to step 3 of the second update; the observation occurs twice, as the next and the current."""
    env = breaking(kind)
    algo = pp.make_ppo(env, plain(env), CONFIG)
    chunks = pp.iterate(algo, pp.init_state(algo, 3, H), H, chunk=1)
    next(chunks)
    next(chunks)
    with pytest.raises(
        RunError, match=f"update 2: the environment Breaking-v0 returned a NaN or infinite {kind}"
    ) as caught:
        next(chunks)
    fault = caught.value.fault
    assert (fault.kind, fault.update, fault.step, fault.count) == (kind, 2, 3, count)


# --- replaced updates -------------------------------------------------------------------------------------------------

BROKEN = {
    "a dict": (lambda s, m: {"state": s}, r"must return the pair \(state, metrics\), but it returned a dict"),
    "the state alone": (lambda s, m: s, "but it returned a TrainState"),
    "no state": (lambda s, m: (s.params, m), "a state of the structure that it received"),
    "another dtype": (lambda s, m: (s._replace(num_updates=s.last_residual), m), "state.num_updates was int32"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_replaced_update_with_another_result_is_an_error(mistake):
    result, text = BROKEN[mistake]
    mine = ALGO._replace(update=lambda state, h: result(*ALGO.update(state, h)))
    for run in (lambda: pp.train(mine, 0), lambda: next(pp.iterate(mine, pp.init_state(mine, 0)))):
        with pytest.raises(TypeError, match=text):
            run()


def test_metrics_of_a_replaced_update_may_be_a_dict_of_arrays():
    def update(state, h):
        state, metrics = ALGO.update(state, h)
        return state, {"kl": metrics.kl, "pair": jnp.stack([metrics.kl, metrics.entropy])}

    _, metrics = pp.train(ALGO._replace(update=update), 3, H, 2)
    assert metrics["pair"].shape == (2, 2)
