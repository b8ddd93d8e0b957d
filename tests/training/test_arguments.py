"""Arguments: equivalent forms of a key give the same key, and an invalid argument gets one helpful sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import CHAIN, algorithm

import purejaxppo as pp
from purejaxppo.functional.running_stats import init_moments
from purejaxppo.training.arguments import as_count, as_key, as_keys
from purejaxppo.training.policy_file import Policy

KEY = jax.random.key(7)


def new(seed=7):
    """Return an unused copy of a key: the reuse check concerns the library, not the test."""
    return jax.random.key(seed)


ALGO = algorithm(CHAIN)


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize(
    "key",
    [new(), jax.random.PRNGKey(7), np.asarray(jax.random.PRNGKey(7)), 7, np.int64(7), jnp.int32(7), jnp.uint32(7)],
)
def test_every_form_of_a_key_is_the_same_typed_key(key):
    typed = as_key(key, "train")
    assert typed.dtype == KEY.dtype
    assert data(typed) == data(new())


@pytest.mark.parametrize(
    "keys",
    [
        [7, 8],
        range(7, 9),
        np.array([7, 8]),
        jnp.array([7, 8]),
        [new(), jax.random.PRNGKey(8)],
        (jnp.int32(7), new(8)),
        jnp.stack([new(), new(8)]),
        jnp.stack([jax.random.PRNGKey(7), jax.random.PRNGKey(8)]),
    ],
)
def test_every_form_of_several_keys_is_the_same_typed_keys(keys):
    assert data(as_keys(keys, "sweep")) == [data(new()), data(new(8))]


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_raw_keys_are_those_of_the_default_implementation(implementation):
    with jax.default_prng_impl(implementation):
        raw = jax.random.PRNGKey(7)
        assert data(as_key(raw, "train")) == data(new())
        assert as_keys(raw[None], "sweep").shape == (1,)


def test_keys_are_converted_while_tracing():
    raw = jnp.stack([jax.random.PRNGKey(7), jax.random.PRNGKey(8)])
    for keys in (raw, jax.random.wrap_key_data(raw), jnp.array([7, 8])):
        typed = jax.jit(jax.vmap(lambda key: as_key(key, "train")))(keys)
        assert data(typed) == raw.tolist()


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (jax.random.split(new(), 3), ValueError, r"train takes one key, not .* shape \(3,\); .* sweep"),
        (jax.random.PRNGKey(0)[None], ValueError, r"train takes one key, not .* shape \(1,\)"),
        (-1, ValueError, "seed = -1: must lie between 0 and 4294967295"),
        (2**32, ValueError, "seed = 4294967296"),
        (1.5, TypeError, "train takes a key .* or an integer seed, not a float"),
        (True, TypeError, "not a bool"),
        (None, TypeError, "not None"),
        (jnp.ones(2), TypeError, r"not an array float32\[2\]"),
        ("0", TypeError, "not a str"),
        ([new()], TypeError, "not a list"),
    ],
)
def test_the_error_for_an_invalid_key_names_it(key, error, text):
    with pytest.raises(error, match=text):
        as_key(key, "train")


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        (new(), ValueError, r"sweep takes one key per seed, such as jax.random.split.*, not a single key"),
        (jax.random.PRNGKey(0), ValueError, "not a single key"),
        (4, ValueError, "not a single key"),
        ([], ValueError, "it is empty"),
        (jax.random.split(new(), (2, 2)), ValueError, r"shape \(2, 2\)"),
        (jax.random.split(new(), 0), ValueError, "it is empty"),
        ([0, 1.5], TypeError, "every entry .* not a float"),
        (0.5, TypeError, "not a float"),
    ],
)
def test_the_error_for_invalid_keys_names_them(keys, error, text):
    with pytest.raises(error, match=text):
        as_keys(keys, "sweep")


def test_integers_of_every_kind_are_counts():
    for value in (3, np.int32(3), jnp.int32(3), np.array(3)):
        count = as_count(value, "num_updates")
        assert type(count) is int
        assert count == 3


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0, ValueError, "chunk = 0: must be at least 1"),
        (-1, ValueError, "chunk = -1"),
        (1.5, TypeError, r"chunk = 1.5: expected an integer, not a float$"),
        (2.0, TypeError, "write 2"),
        (True, TypeError, "expected an integer, not a bool"),
        ("3", TypeError, "not a str"),
        (jnp.ones(1, jnp.int32), TypeError, "expected an integer"),
    ],
)
def test_the_error_for_an_invalid_count_names_it(value, error, text):
    with pytest.raises(error, match=text):
        as_count(value, "chunk")


def test_a_traced_count_is_an_error():
    with pytest.raises(TypeError, match="num_updates must be a Python integer"):
        jax.jit(lambda n: pp.train(ALGO, KEY, None, n))(3)


STATE = jax.eval_shape(ALGO.init, KEY, pp.Hyperparams())
POLICY = Policy({"w": jnp.ones(2)}, init_moments((2,)))
TWO = pp.Hyperparams(jnp.array([1e-3, 1e-2]))
MISTAKES = {
    "iterate from a key": (lambda: pp.iterate(ALGO, KEY), r"a TrainState, not a key; .* init_state\(algo, key\)"),
    "iterate from a policy": (
        lambda: pp.iterate(ALGO, POLICY),
        r"no optimizer state .*init_state\(algo, key\)._replace",
    ),
    "iterate from the result of train": (lambda: pp.iterate(ALGO, (STATE, None)), "first element of the pair"),
    "evaluate parameters": (lambda: pp.evaluate(ALGO, STATE.params, KEY), r"a dict; .*state._replace\(params=params\)"),
    "evaluate the result of train": (lambda: pp.evaluate(ALGO, (STATE, None), KEY), "first element of the pair"),
    "evaluate a file": (
        lambda: pp.evaluate(ALGO, "policy.safetensors", KEY),
        r"not a str; .*load\(path\)",
    ),
    "record parameters": (lambda: pp.record(ALGO, STATE.params, KEY), "record takes a TrainState or a Policy"),
    "rollout of a policy": (lambda: pp.rollout(ALGO, POLICY, KEY), "rollout continues from a TrainState"),
    "train an environment": (
        lambda: pp.train(CHAIN, KEY),
        "train takes the Algorithm that make_ppo returns, not an Env",
    ),
    "sweep an environment": (lambda: pp.sweep(CHAIN, [0]), "sweep takes the Algorithm"),
    "evaluate an environment": (lambda: pp.evaluate(CHAIN, POLICY, KEY), "evaluate takes the Algorithm"),
    "init an environment": (lambda: pp.init_state(CHAIN, KEY), "init_state takes the Algorithm"),
    "arrays of settings in train": (lambda: pp.train(ALGO, KEY, TWO), r"one setting.*learning_rate.*use sweep"),
    "a dict of hyperparameters": (lambda: pp.train(ALGO, KEY, {"gamma": 0.9}), "must be a Hyperparams .* not a dict"),
    "no episode": (lambda: pp.evaluate(ALGO, POLICY, KEY, 0), "num_episodes = 0: must be at least 1"),
    "too many episodes": (lambda: pp.evaluate(ALGO, POLICY, KEY, 10**12), "num_episodes = 1000000000000: at most"),
    "half a step": (lambda: pp.evaluate(ALGO, POLICY, KEY, max_steps=0.5), "max_steps = 0.5: expected an integer"),
    "negative updates": (lambda: pp.train(ALGO, KEY, num_updates=-1), "num_updates = -1: must be at least 0"),
    "half an update": (lambda: pp.sweep(ALGO, [0], num_updates=1.5), "num_updates = 1.5: expected an integer"),
    "no chunk": (lambda: pp.iterate(ALGO, STATE, chunk=0), "chunk = 0: must be at least 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_common_mistakes_get_one_sentence(mistake):
    call, text = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
