"""Ways to run the page: same numbers whichever way, one compile, memory that does not grow, nothing to the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from plain_net import plain
from probes import chain

import purejaxppo as pp
from purejaxppo import Config, ConfigError, Hyperparams
from purejaxppo.training.loop import _chunk, _scan, as_traced
from purejaxppo.training.sweeps import _grid

CONFIG = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 7)
ENV = chain(limit=6)
ALGO = pp.make_ppo(ENV, plain(ENV), CONFIG)
H = Hyperparams(1e-2, ent_coef=0.01)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole():
    return pp.train(ALGO, jax.random.key(3), H)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_iterate_equals_train_bitwise(whole, chunk):
    """Whatever the chunk, and with a short last one: the same state, the same metrics, all 7 updates of them."""
    pieces = list(pp.iterate(ALGO, pp.init_state(ALGO, jax.random.key(3), H), H, chunk=chunk))
    assert [len(m.kl) for _, m in pieces] == [chunk] * (7 // chunk) + ([7 % chunk] if 7 % chunk else [])
    assert_same(pieces[-1][0], whole[0])
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *(m for _, m in pieces)), whole[1])


def test_same_seed_same_numbers_other_seed_other_numbers(whole):
    assert_same(pp.train(ALGO, jax.random.key(3), H), whole)
    other = pp.train(ALGO, jax.random.key(4), H)[1]
    assert not np.array_equal(other.value_loss, whole[1].value_loss)


def test_iterate_goes_on_from_any_state(whole):
    first = None
    for state, _ in pp.iterate(ALGO, pp.init_state(ALGO, jax.random.key(3), H), H, num_updates=3, chunk=3):
        first = state
    rest = list(pp.iterate(ALGO, first, H, chunk=3))
    assert sum(len(m.kl) for _, m in rest) == 4  # what is left of the declared total
    assert_same(rest[-1][0], whole[0])


def test_one_compile_per_run():
    """All chunks, the short last one too, and a second run with other numbers are one program."""
    algo = pp.make_ppo(ENV, plain(ENV), dataclasses.replace(CONFIG, num_steps=4, total_timesteps=16 * 5))
    before = _chunk._cache_size()
    for seed, h in ((0, H), (1, H._replace(learning_rate=jnp.float32(0.1), clip_eps=1))):
        for _ in pp.iterate(algo, pp.init_state(algo, jax.random.key(seed), h), h, chunk=2):
            pass
    assert _chunk._cache_size() == before + 1
    before = _scan._cache_size()
    for seed in (0, 1):
        pp.train(algo, jax.random.key(seed), H)
    assert _scan._cache_size() == before + 1


def compiled(num_updates):
    config = dataclasses.replace(CONFIG, total_timesteps=32 * num_updates)
    algo = pp.make_ppo(ENV, plain(ENV), config)
    state = jax.eval_shape(algo.init, jax.random.key(0), as_traced(H))
    return _scan.lower(algo.update, num_updates, state, as_traced(H)).compile()


def test_memory_does_not_grow_with_the_number_of_updates():
    """1000 updates against 10: the same scratch memory; the output grows by the metrics and nothing else."""
    short, long = (compiled(n).memory_analysis() for n in (10, 1000))
    assert long.temp_size_in_bytes <= short.temp_size_in_bytes + 4096
    assert long.output_size_in_bytes - short.output_size_in_bytes == 990 * 4 * (len(pp.Metrics._fields) - 1)


def test_nothing_leaves_the_device_within_a_run():
    state, h = pp.init_state(ALGO, jax.random.key(0), H), as_traced(H)
    length = jnp.int32(4)
    with jax.transfer_guard("disallow"):
        state, metrics = _chunk(ALGO.update, 5, state, h, length)
        jax.block_until_ready(metrics)
    text = _chunk.lower(ALGO.update, 5, state, h, length).as_text()
    assert "callback" not in text


def test_seeds_under_vmap_equal_single_runs(whole):
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    with jax.debug_key_reuse(False):  # the checker takes the move of a vmapped scan's keys for a use of them
        state, metrics = jax.jit(jax.vmap(lambda key: pp.train(ALGO, key, H, 2)))(keys)
    np.testing.assert_allclose(metrics.value_loss[0], whole[1].value_loss[:2], rtol=1e-5)
    np.testing.assert_allclose(metrics.kl[0], whole[1].kl[:2], rtol=1e-3, atol=1e-7)
    assert state.num_updates.tolist() == [2, 2]


def test_a_sweep_is_the_runs_it_stands_for_and_one_program():
    """β, κ, ε and λ vary together; setting by setting the numbers are those of a run of its own."""
    h = Hyperparams(
        1e-2,
        gae_lambda=jnp.array([0.9, 1.0, 0.0]),
        clip_eps=jnp.array([0.2, 0.1, 0.3]),
        target_kl=jnp.array([jnp.inf, 1e-5, 0.1]),
        beta=jnp.array([1.0, 2.0, 3.0]),
    )
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.debug_key_reuse(False):
        before = _grid._cache_size()
        pp.sweep(ALGO, keys, h._replace(gamma=0.9, clip_eps=jnp.array([0.5, 0.4, 0.3])), 2)
        _, metrics = pp.sweep(ALGO, keys, h, 2)
        assert _grid._cache_size() == before + 1
    assert metrics.kl.shape == (3, 2, 2)
    one = Hyperparams(1e-2, gae_lambda=1.0, clip_eps=0.1, target_kl=1e-5, beta=2.0)
    _, alone = pp.train(ALGO, keys[1], one, 2)
    np.testing.assert_allclose(metrics.value_loss[1, 1], alone.value_loss, rtol=1e-5)
    np.testing.assert_array_equal(metrics.minibatch_steps[1, 1], alone.minibatch_steps)
    assert metrics.minibatch_steps[1, 1, 0] < metrics.minibatch_steps[0, 1, 0]


def test_what_cannot_be_run_is_refused_before_compiling():
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
    with pytest.raises(ValueError, match="one length H"):
        pp.sweep(ALGO, jax.random.split(jax.random.key(0), 2), H._replace(gamma=jnp.ones(2), beta=jnp.ones(3)))


def test_a_state_without_an_allowed_action_is_an_error_that_names_the_environment():
    """Random play of `make_ppo` ends before it; training comes there, and says so in each of its forms."""
    env = probes.dead_end(140)
    config = Config(num_envs=2, num_steps=32, num_epochs=1, num_minibatches=2, total_timesteps=64 * 5)
    algo = pp.make_ppo(env, pp.mlp(env, (4,)), config)
    what = "environment DeadEnd-v0 allowed no action in 2 states"
    with pytest.raises(ValueError, match=what):
        pp.train(algo, jax.random.key(0), H)
    with jax.debug_key_reuse(False), pytest.raises(ValueError, match=what):
        pp.sweep(algo, jax.random.split(jax.random.key(0), 1), H)
    chunks = pp.iterate(algo, pp.init_state(algo, jax.random.key(0), H), H, chunk=5)
    state, metrics = next(chunks)  # handed over whole: nothing is lost
    assert metrics.masked_states.tolist() == [0, 0, 0, 0, 2]
    with pytest.raises(ValueError, match=what):
        next(chunks)
    _, metrics = jax.jit(lambda key: pp.train(algo, key, H))(jax.random.key(0))
    assert metrics.masked_states.sum() == 2
    assert np.isnan(pp.evaluate(algo, state, jax.random.key(1), num_episodes=3).returns).all()
    with pytest.raises(ValueError, match="environment DeadEnd-v0 allows no action"):
        pp.make_ppo(probes.dead_end(20), pp.mlp(env, (4,)), config)


def test_a_chunk_has_at_least_one_update():
    with pytest.raises(ValueError, match="chunk = 0"):
        next(pp.iterate(ALGO, pp.init_state(ALGO, jax.random.key(3), H), H, chunk=0))
