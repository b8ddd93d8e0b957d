"""The fields of a train state that have a row for each environment, and the final observations of a rollout."""

import jax
from nets import env_of
from plain_net import plain
from probes import endless
from recurrent_nets import CONFIG, SPACE, network_of

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.batching import final_observations as final
from purejaxppo.envs.spaces import Discrete
from purejaxppo.training.loop import rollout_shapes, state_shapes
from purejaxppo.types import PER_ENV_FIELDS

SMALL = Config(num_envs=4, num_steps=24, num_epochs=2, num_minibatches=2, total_timesteps=96 * 4)


def test_the_fields_with_a_row_for_each_environment_are_those_that_grow_with_their_number():
    def shapes(num_envs):
        config = Config(**(vars(CONFIG) | {"num_envs": num_envs}))
        state = state_shapes(pp.make_ppo(env_of(SPACE, Discrete(3)), network_of("gru"), config))
        return {name: [x.shape for x in jax.tree.leaves(value)] for name, value in state._asdict().items()}

    few, many = shapes(4), shapes(6)
    assert {name for name in few if few[name] != many[name]} == set(PER_ENV_FIELDS)
    for name in PER_ENV_FIELDS:  # a scalar is shared by all environments
        assert [(6, *shape[1:]) if shape else () for shape in few[name]] == many[name]


def test_a_rollout_has_the_final_observations_of_all_steps_and_an_update_those_of_truncated_ones(monkeypatch):
    monkeypatch.setattr(final, "SMALL", 0)
    env = endless(8)._replace(truncation_gap=8, name="Endless")
    algo = pp.make_ppo(env, plain(env), SMALL)
    _, played = pp.rollout(algo, pp.init_state(algo, 0), 1)
    assert played.final_obs.shape == (24, 4, 1)
    assert rollout_shapes(algo, state_shapes(algo)).final_obs.obs.shape == (4, 3, 1)
