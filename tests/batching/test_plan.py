"""The execution plan: minibatches hold every sample once, and devices do not change what an update computes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from plain_net import plain
from probes import chain, quick_jit

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.batching.plan import make_plan
from purejaxppo.devices.sharding import AXIS, mesh
from purejaxppo.training.loop import as_traced
from purejaxppo.types import PER_ENV_FIELDS

CONFIG = Config(num_envs=4, num_steps=6, num_minibatches=3, total_timesteps=10**4, num_devices=2)


class Rows(NamedTuple):
    """The fields of a batch that the plan reads, and a label for every sample."""

    label: jax.Array
    image: jax.Array  # too wide to be packed
    advantage: jax.Array
    rnn_state: tuple = ()
    is_first: tuple = ()
    burn_in: tuple = ()
    excluded: tuple = ()


def rows():
    """Return a rollout [T, N, ...] whose leaves are functions of a label per sample."""
    label = jnp.arange(24, dtype=jnp.float32).reshape(6, 4)
    return Rows(label, jnp.broadcast_to(label[..., None], (6, 4, 50)), 10.0 * label)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_the_minibatches_of_an_epoch_hold_every_sample_once_with_all_its_leaves(num_devices):
    plan = make_plan(Config(**(vars(CONFIG) | {"num_devices": num_devices})), False, ())

    def step(carry, minibatch):
        batch = jax.vmap(minibatch.take, (None, 0))(minibatch.data, minibatch.index)
        return carry, (batch.label, batch.image, minibatch.advantage)

    @quick_jit
    def epoch(key):
        order = jax.random.permutation(key, 24)
        batch = plan.to_sequences(rows())
        return plan.scan_minibatches(step, (), batch, order, lambda advantage, excluded: advantage)[1]

    label, image, advantage = (np.asarray(x) for x in epoch(jax.random.key(0)))
    assert label.shape[0] == 3
    np.testing.assert_array_equal(np.sort(label.ravel()), np.arange(24))
    np.testing.assert_array_equal(image, np.broadcast_to(label[..., None], image.shape))
    np.testing.assert_array_equal(advantage, 10.0 * label)


def test_the_same_order_gives_the_same_minibatches_on_one_device_and_on_two():
    found = []
    for num_devices in (1, 2):
        plan = make_plan(Config(**(vars(CONFIG) | {"num_devices": num_devices})), False, ())

        def step(carry, minibatch):
            return carry, jnp.sort(jax.vmap(minibatch.take, (None, 0))(minibatch.data, minibatch.index).label.ravel())

        order = jnp.asarray(np.random.default_rng(0).permutation(24), jnp.int32)
        run = quick_jit(lambda p=plan, s=step, o=order: p.scan_minibatches(s, (), p.to_sequences(rows()), o, first)[1])
        found.append(run())
    np.testing.assert_array_equal(*found)


def first(advantage, excluded):
    return advantage


def test_init_places_a_state_as_an_update_does():
    """Therefore all updates are one compiled program."""
    env = chain(limit=5)
    algo = pp.make_ppo(env, plain(env), CONFIG)
    h = as_traced(None)
    state = quick_jit(algo.init)(jax.random.key(0), h)
    before = jax.tree.map(lambda x: x.sharding, state)
    after = jax.tree.map(lambda x: x.sharding, quick_jit(algo.update)(state, h)[0])
    assert before == after
    split = state.obs.sharding.spec
    assert split == PartitionSpec(AXIS)
    assert set(PER_ENV_FIELDS) <= set(state._fields)


def test_a_plan_that_keeps_all_final_observations_differs_in_nothing_else():
    plan = make_plan(CONFIG, False, (), truncation_gap=3)
    whole = plan.keeping_all_final_observations()
    assert (plan.truncation_gap, whole.truncation_gap) == (3, 1)
    assert whole._replace(truncation_gap=3) == plan


def test_inside_shard_map_every_device_runs_separately():
    plan = make_plan(CONFIG, False, ())
    seen = []

    def on_device(x):
        seen.append(plan.num_devices)
        return x

    spec = PartitionSpec(AXIS)
    jax.jit(jax.shard_map(on_device, mesh=mesh(2), in_specs=spec, out_specs=spec))(jnp.zeros(2))
    assert plan.num_devices == 2
    assert set(seen) == {1}
