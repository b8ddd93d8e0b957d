"""Actions with several components: each Box of a dict has its own standard deviations."""

import jax.numpy as jnp
import numpy as np
import pytest
from nets import env_of

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.envs.spaces import box

# The leaves are sorted by name: "left" has the first deviation, "right" the other two.
ENV = env_of(box(-1, 1, (2,)), {"right": box(-9, 9, (2,)), "left": box(-9, 9, (1,))})
LOG_STD = np.array([-3.0, -1.0, 1.0], np.float32)


@pytest.mark.parametrize("distribution", ["gaussian", "tanh_gaussian"])
def test_two_boxes_of_a_dict_have_a_deviation_for_each_component(distribution):
    """From 2048 samples: standard deviations, independence, and the density by hand."""
    network = pp.make_network(ENV, pp.NetworkConfig(hidden_sizes=(4,), action_distribution=distribution))
    algo = pp.make_ppo(ENV, network, Config(64, 32))
    state = pp.init_state(algo, 0)
    params = {"params": {**state.params["params"], "log_std": jnp.asarray(LOG_STD)}}
    assert state.params["params"]["log_std"].shape == LOG_STD.shape
    _, r = pp.rollout(algo, state._replace(params=params), 1)
    mean = r.distribution.mode()
    noise = np.concatenate([np.asarray(r.action[name] - mean[name]) for name in ("left", "right")], -1)
    np.testing.assert_allclose(noise.std((0, 1)), np.exp(LOG_STD), rtol=0.06)
    correlation = np.corrcoef(noise.reshape(-1, 3), rowvar=False)
    assert np.abs(correlation - np.eye(3)).max() < 0.08
    if distribution == "gaussian":
        density = -0.5 * np.square(noise / np.exp(LOG_STD)) - LOG_STD - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(r.distribution.log_prob(r.action), density.sum(-1), rtol=1e-3, atol=1e-3)
