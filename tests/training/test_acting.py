"""A loaded policy acts as the policy that was trained, without its environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import env_of, params_of, sample_block, small
from probes import masked

import purejaxppo as pp
from purejaxppo.config.schema import Run
from purejaxppo.envs import registry
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box
from purejaxppo.functional.running_stats import update_moments
from purejaxppo.training.policy_file import read_metadata, save_policy

VECTOR = box(-1, 1, (3,))
DICT = {"b": Discrete(3), "a": box(-1, 1, (2,)), "image": box(0, 255, (2, 2), np.uint8)}
CONFIG = pp.Config(num_envs=2, num_steps=4, num_minibatches=1, num_epochs=1, total_timesteps=8)


def trained(env, path, kind="mlp", **changes):
    """Return an algorithm with random parameters and statistics, its state, and the policy loaded from its file."""
    network = small(kind=kind)
    algo = pp.make_ppo(env, pp.make_network(env, network), pp.Config(**(vars(CONFIG) | changes)))
    state = jax.eval_shape(algo.init, jax.random.key(0), pp.Hyperparams())
    moments = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.obs_moments)
    moments = update_moments(moments, sample_block(env.observation_space, 5, 2))
    state = state._replace(params=params_of(algo.network), obs_moments=moments)
    run = Run("Elsewhere-v0", config=algo.config, network=network)
    save_policy(path / "policy.safetensors", state, run=run, algo=algo)
    return algo, state, pp.load(path)


def one(batch, i):
    return jax.tree.map(lambda x: np.asarray(x[i]), batch)


@pytest.mark.parametrize(("kind", "actions"), [("mlp", box(-0.1, 0.1, (2,))), ("gru", Discrete(3))])
def test_actions_are_those_of_record(tmp_path, kind, actions):
    """Over several steps of an episode; Box actions are clipped as the environment clips them."""
    algo, state, policy = trained(env_of(VECTOR, actions), tmp_path, kind, normalize_observations=True)
    recording = pp.record(algo, state, 3, num_steps=12)
    carry = None
    for t in range(int(np.argmax(np.append(recording.done, True))) + 1):
        if t == 12:
            break
        action, carry = policy.act(np.asarray(recording.obs[t]), carry)
        expected = np.asarray(recording.action[t])
        if not isinstance(actions, Discrete):
            expected = np.clip(expected, -0.1, 0.1)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
        assert isinstance(action, np.ndarray | np.generic)
        assert bool(jax.tree.leaves(carry)) == (kind == "gru")


@pytest.mark.parametrize("space", [VECTOR, DICT, Discrete(4), MultiDiscrete((2, 3))])
def test_a_batch_is_its_observations_one_by_one(tmp_path, space):
    _, _, policy = trained(env_of(space, {"x": box(-1, 1, ()), "n": Discrete(3)}), tmp_path)
    obs = sample_block(space, 4)
    together, _ = policy.act(obs)
    for i in range(4):
        alone, _ = policy.act(one(obs, i))
        assert alone["n"] == together["n"][i]
        np.testing.assert_allclose(alone["x"], together["x"][i], rtol=1e-5, atol=1e-6)
    assert policy.observation_space == space
    assert policy.action_space == {"x": box(-1, 1, ()), "n": Discrete(3)}


def test_a_recurrent_policy_over_time_is_the_network_applied_to_the_sequence(tmp_path):
    """Three columns of five steps; the second column starts an episode at step 2."""
    algo, state, policy = trained(env_of(VECTOR, box(-9, 9, (2,))), tmp_path, "gru")
    obs = sample_block(VECTOR, 5, 3)
    is_first = np.zeros((5, 3), bool)
    is_first[0] = is_first[2, 1] = True
    start = algo.network.initial_rnn_state(3)
    _, distribution, _ = algo.network.apply(state.params, start, obs, jnp.asarray(is_first))
    carry = None
    for t in range(5):
        action, carry = policy.act(obs[t], carry, is_first=is_first[t] if t else None)
        np.testing.assert_allclose(action, distribution.mode()[t], rtol=1e-4, atol=1e-5)


def test_a_key_gives_samples_of_the_distribution(tmp_path):
    algo, state, policy = trained(env_of(VECTOR, Discrete(3)), tmp_path)
    obs = np.full((4000, 3), 0.5, np.float32)
    actions, _ = policy.act(obs, key=0)
    _, distribution, _ = algo.network.apply(state.params, (), obs[None, :1], jnp.ones((1, 1), bool))
    share = np.bincount(actions, minlength=3) / 4000
    np.testing.assert_allclose(share, jax.nn.softmax(distribution.logits[0, 0]), atol=4 * 0.5 / np.sqrt(4000))
    again, _ = policy.act(obs, key=jax.random.key(0))
    np.testing.assert_array_equal(again, actions)


def test_masks_are_kept_and_a_mask_without_an_action_is_an_error(tmp_path):
    _, _, policy = trained(masked(), tmp_path)
    obs = {"observation": np.eye(6, dtype=np.float32), "action_mask": np.eye(6, dtype=np.int8)[::-1]}
    for key in (None, 1):
        np.testing.assert_array_equal(policy.act(obs, key=key)[0], np.arange(6)[::-1])
    with pytest.raises(ValueError, match="mask of the observation allows no action"):
        policy.act(one(obs, 0) | {"action_mask": np.zeros(6, bool)})


def test_the_observation_of_the_critic_may_be_missing(tmp_path):
    space = {"actor": VECTOR, "critic": box(-1, 1, (7,))}
    _, _, policy = trained(env_of(space, Discrete(3)), tmp_path)
    obs = sample_block(space, 6)
    np.testing.assert_array_equal(policy.act({"actor": obs["actor"]})[0], policy.act(obs)[0])
    assert policy.act({"actor": obs["actor"][0]})[0].shape == ()


def test_no_environment_is_needed_if_the_file_has_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_resolve", lambda name: pytest.fail("the environment was looked for"))
    trained(env_of(VECTOR, Discrete(2)), tmp_path)
    metadata = read_metadata(tmp_path / "policy.safetensors")
    assert f"jax {jax.__version__}" in metadata["versions"]


def test_a_file_without_spaces_needs_its_environment(tmp_path):
    _, state, _ = trained(env_of(VECTOR, Discrete(2)), tmp_path)
    path = tmp_path / "old"
    save_policy(path, state, run=Run("Elsewhere-v0", network=small()))
    with pytest.raises(pp.CheckpointError, match="its environment cannot be made: unknown environment 'Elsewhere-v0'"):
        pp.load(path)
    save_policy(path, state, {"observation_space": "[]"})
    with pytest.raises(pp.CheckpointError, match="its spaces cannot be read"):
        pp.load(path)


def test_a_network_of_your_own_is_passed_to_load(tmp_path):
    algo, state, policy = trained(env_of(VECTOR, Discrete(3)), tmp_path)
    path = tmp_path / "own"
    pp.save_policy(path, state, algo=algo)
    obs = sample_block(VECTOR, 6)
    np.testing.assert_array_equal(pp.load(path, algo.network).act(obs)[0], policy.act(obs)[0])
    with pytest.raises(pp.CheckpointError, match="keeps no settings"):
        pp.load(path)
    with pytest.raises(TypeError, match="network must be a Network"):
        pp.load(path, "mlp")


def test_a_loaded_policy_is_evaluated_as_its_state_is(tmp_path):
    algo, state, policy = trained(env_of(VECTOR, Discrete(3)), tmp_path)
    returns = [pp.evaluate(algo, x, 0, num_episodes=3, max_steps=5).returns for x in (state, policy)]
    np.testing.assert_array_equal(*returns)


@pytest.mark.parametrize(
    ("obs", "text"),
    [
        ({"a": [0.0, 0.0], "b": 1}, "obs must be a dict with the keys a, b, image, not a dict with a, b"),
        (np.zeros(2), "obs must be a dict with the keys a, b, image, not a ndarray"),
        ({"a": np.zeros((1, 1, 2))}, r"obs\['a'\] must have the shape \(2,\), or .* not \(1, 1, 2\)"),
        ({"a": np.zeros((1, 2))}, r"different leading axes: \[\(\), \(1,\)\]"),
        ({"a": [0.0, np.nan]}, r"obs\['a'\] contains NaN or infinity"),
        ({"b": 3}, r"obs\['b'\] must be an element of Discrete\(n=3\), not 3"),
        ({"image": np.zeros((2, 2))}, r"obs\['image'\] must be uint8, not float64"),
    ],
)
def test_an_observation_of_another_space_is_named(tmp_path, obs, text):
    _, _, policy = trained(env_of(DICT, Discrete(3)), tmp_path)
    good = {"a": [0.0, 0.0], "b": 1, "image": np.zeros((2, 2), np.uint8)}
    complete = isinstance(obs, np.ndarray) or len(obs) > 1
    with pytest.raises(ValueError, match=text):
        policy.act(obs if complete else good | obs)


def test_a_carry_of_another_batch_is_an_error(tmp_path):
    _, _, policy = trained(env_of(VECTOR, Discrete(3)), tmp_path, "gru")
    carry = policy.network.initial_rnn_state(2)
    with pytest.raises(ValueError, match="another number of observations than the 1 of this call"):
        policy.act(np.zeros(3), carry)
    with pytest.raises(ValueError, match=r"is_first must be bool \[2\], not int64 \[3\]"):
        policy.act(np.zeros((2, 3)), carry, is_first=np.zeros(3, int))
