"""Small environments, settings and comparisons for tests of the optimization steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from probes import chain, quick_jit, reward_by_distance

from purejaxppo import Config


def compiles_with(options):
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


# Without fusion emitters the thirty programs here compile in half the time; jaxlib 0.11 has no such option.
OPTIONS = quick_jit.keywords["compiler_options"]

OLD_EMITTERS = OPTIONS | {"xla_cpu_use_fusion_emitters": False}

short_jit = partial(jax.jit, compiler_options=OLD_EMITTERS if compiles_with(OLD_EMITTERS) else OPTIONS)

CHAIN, PUSH = chain(limit=5), reward_by_distance(action_dim=2)

TINY = Config(num_envs=4, num_steps=8, num_epochs=3, num_minibatches=4, total_timesteps=32 * 4)


def changed(config=TINY, **changes):
    return Config(**(vars(config) | changes))


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(leaves(a), leaves(b), strict=True))
