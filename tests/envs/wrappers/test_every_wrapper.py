"""Every wrapper keeps to the protocol, to its spaces, and to the name of the environment."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from odd_envs import asymmetric, hidden_mask, judged, nested, of_state, pixels, plane
from probes import quick_jit, rollout
from slow import slow_except

from purejaxppo.envs import wrappers
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.families import parametrized
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv, step_avals
from purejaxppo.envs.spaces import (
    Discrete,
    box,
    encode,
    encoded_space,
    sample_space,
)
from purejaxppo.envs.wrappers.action_masks import always_some_action, with_action_mask
from purejaxppo.envs.wrappers.actions import clip_action, map_action, rescale_action, sticky_actions
from purejaxppo.envs.wrappers.agents import fold_agents, frozen_opponent
from purejaxppo.envs.wrappers.episodes import action_repeat, time_limit
from purejaxppo.envs.wrappers.observations import (
    append_previous,
    flatten_observation,
    frame_stack,
    map_observation,
    mask_observation,
)
from purejaxppo.envs.wrappers.rewards import reward_clip, reward_scale

PROBES = {
    name: getattr(probes, name)
    for name in (
        "constant_reward",
        "reward_is_observation",
        "reward_by_action",
        "reward_by_action_and_observation",
        "reward_by_distance",
        "reward_by_many_actions",
        "reward_by_mixed_action",
        "two_steps",
        "endless",
        "chain",
        "masked",
        "scripted",
    )
}


WRAPPED = {
    "flatten": lambda: flatten_observation(time_limit(nested(), 3)),
    "flatten_masked": lambda: flatten_observation(probes.masked()),
    "flatten_image": lambda: flatten_observation(pixels(), images=True),
    "clip": lambda: clip_action(probes.reward_by_distance()),
    "clip_mixed": lambda: clip_action(probes.reward_by_mixed_action()),
    "rescale": lambda: rescale_action(probes.reward_by_distance(bound=3)),
    "time_limit": lambda: time_limit(probes.chain(), 3),
    "mask_observation": lambda: mask_observation(probes.chain(), [4, 0]),
    "append_previous": lambda: append_previous(probes.chain()),
    "append_previous_masked": lambda: append_previous(probes.masked()),
    "append_previous_mixed": lambda: append_previous(probes.reward_by_mixed_action()),
    "frame_stack": lambda: frame_stack(probes.chain(), 3),
    "frame_stack_masked": lambda: frame_stack(probes.masked(), 3),
    "frame_stack_image": lambda: frame_stack(pixels(), 3),
    "frame_stack_plane": lambda: frame_stack(plane(), 3),
    "frame_stack_nested": lambda: frame_stack(time_limit(nested(), 3), 3),
    "frame_stack_asymmetric": lambda: frame_stack(asymmetric(), 3),
    "append_previous_nested": lambda: append_previous(time_limit(nested(), 3)),
    "append_previous_image": lambda: append_previous(pixels()),
    "append_previous_asymmetric": lambda: append_previous(asymmetric()),
    "flatten_asymmetric": lambda: flatten_observation(asymmetric()),
    "mask": lambda: with_action_mask(hidden_mask(), of_state),
    "mask_composed": lambda: frame_stack(append_previous(flatten_observation(time_limit(judged(), 3))), 2),
    "sticky_masked": lambda: sticky_actions(probes.masked()),
    "sticky": lambda: sticky_actions(probes.chain()),
    "sticky_mixed": lambda: sticky_actions(probes.reward_by_mixed_action()),
    "always_some_action": lambda: always_some_action(probes.masked()),
    "action_repeat": lambda: action_repeat(probes.chain(), 2),
    "reward_scale": lambda: reward_scale(probes.chain(), 3),
    "reward_clip": lambda: reward_clip(probes.chain()),
    "all": lambda: frame_stack(append_previous(sticky_actions(time_limit(flatten_observation(nested()), 3))), 2),
}


# Compilation takes a second for each. These are the simple wrappers, and all wrappers of observations at once.
FAST = ("scripted", "masked", "clip", "rescale", "time_limit", "sticky_masked", "action_repeat", "mask_composed", "all")


@pytest.mark.parametrize("name", slow_except([*PROBES, *WRAPPED], *FAST))
def test_probes_and_wrapped_environments_keep_to_the_protocol(name: str, key: jax.Array) -> None:
    env = (PROBES | WRAPPED)[name]()
    check_env(env)
    # and their observations are in their declared bounds, also after resets
    sample = jax.vmap(jax.vmap(partial(sample_space, env.action_space)))
    actions = partial(sample, jax.random.split(jax.random.key(9), (8, 3)))
    _, obs, _, ts = rollout(env, actions, key, shape=(8, 3))

    def within(space: Any, values: Any) -> None:
        encoded = encoded_space(space)
        vectors = np.asarray(quick_jit(jax.vmap(partial(encode, space)))(values))
        assert (vectors >= encoded.low).all()
        assert (vectors <= encoded.high).all()

    for values in (obs, *(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), v) for v in (ts.obs, ts.final_obs))):
        within(env.observation_space, values)
    assert np.isfinite(ts.reward).all()


WRAPPERS: dict[str, Any] = {
    "map_observation": lambda env: map_observation(env, lambda obs: obs, env.observation_space),
    "flatten_observation": flatten_observation,
    "time_limit": lambda env: time_limit(env, 3),
    "mask_observation": lambda env: mask_observation(env, [1]),
    "append_previous": append_previous,
    "frame_stack": lambda env: frame_stack(env, 2),
    "sticky_actions": sticky_actions,
    "action_repeat": lambda env: action_repeat(env, 2),
    "reward_scale": lambda env: reward_scale(env, 2),
    "reward_clip": reward_clip,
    "fold_agents": lambda env: fold_agents(env, 2),
    "frozen_opponent": lambda env: frozen_opponent(env, 2, lambda params, key, obs: jnp.zeros(obs.shape[:2], int)),
    "map_action": lambda env: map_action(env, lambda action: action, env.action_space),
    "with_action_mask": lambda env: with_action_mask(env, lambda state, obs: jnp.ones(2, bool)),
    "always_some_action": lambda env: always_some_action(WRAPPERS["with_action_mask"](env)),
    "clip_action": clip_action,
    "rescale_action": rescale_action,
}
OTHERS: dict[str, Any] = {"conform": conform, "auto_reset": auto_reset}  # Env -> Env or VecEnv, elsewhere in `envs`
OF_BOXES = ("clip_action", "rescale_action")  # wrappers of continuous actions
OF_AGENTS = ("fold_agents", "frozen_opponent")


def test_every_wrapper_is_in_the_list_above() -> None:
    functions = {name for name in wrappers.__all__ if name[0].islower()}
    assert functions == set(WRAPPERS)


def names_kept() -> dict[str, Env]:
    """Apply every wrapper to a named environment."""
    chain, push = probes.chain()._replace(name="Chain"), probes.reward_by_distance()._replace(name="Chain")
    return {name: f(push if name in OF_BOXES else chain) for name, f in (WRAPPERS | OTHERS).items()}


def test_wrappers_keep_the_name_for_messages() -> None:
    assert {env.name for env in names_kept().values()} == {"Chain"}
    broken = probes.chain()._replace(name="Chain", observation_space=box(0, 1, (7,)))
    with pytest.raises(ValueError, match="the environment Chain does not keep to the protocol"):
        check_env(broken)


@pytest.mark.parametrize("make", [*PROBES.values(), *WRAPPED.values()], ids=[*PROBES, *WRAPPED])
def test_dtypes_do_not_depend_on_the_default_dtype_of_jax(make: Any) -> None:
    env = make()
    narrow = step_avals(env)
    with jax.enable_x64(True):
        wide = step_avals(make())
    kinds = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(avals)] for avals in (narrow, wide)]
    assert kinds[0] == kinds[1]


def paying(wage: jax.Array, continuous: bool, agents: int) -> Env:
    """Make an environment that pays `wage` in every step, to each of its agents if there are several."""
    axes = (agents,) if agents else ()

    def reset(key: jax.Array) -> tuple[Any, Any]:
        return jnp.int32(0), jnp.zeros((*axes, 2), jnp.float32)

    def step(key: jax.Array, time: Any, action: Any) -> tuple[Any, TimeStep]:
        obs = jnp.full((*axes, 2), time + 1, jnp.float32)
        return time + 1, TimeStep(obs, jnp.broadcast_to(wage, axes), time == 5, jnp.bool_(False), obs)

    actions = box(-1, 1, (1,)) if continuous else Discrete(2)
    return Env(reset, step, box(0, 6, (2,)), actions)


@pytest.mark.parametrize("name", [*WRAPPERS, *OTHERS])
def test_a_changed_parameter_reaches_the_environment_through_every_wrapper(name: str) -> None:
    """Also through another wrapper around it, and with traced parameters."""
    make = partial(paying, continuous=name in OF_BOXES, agents=2 if name in OF_AGENTS else 0)
    env = (WRAPPERS | OTHERS)[name](parametrized(make, 0.25))
    outer = env if isinstance(env, VecEnv) else time_limit(env, 9)
    params = outer.params
    assert jax.tree.leaves(params) == [0.25]

    @quick_jit
    def reward(params: Any, key: jax.Array) -> jax.Array:
        vec = auto_reset(outer.family(params))
        state, _ = vec.reset(key, 4)
        noise = jax.tree.map(lambda x: x[0], vec.noise(jax.random.key(1), 1, 4))
        action = jax.vmap(partial(sample_space, vec.action_space))(jax.random.split(jax.random.key(2), 4))
        return vec.step(noise, state, action)[1].reward

    factor = {"reward_scale": 2.0, "action_repeat": 2.0}.get(name, 1.0)
    for wage in (0.25, 0.5):
        given = jax.tree.map(lambda x, wage=wage: jnp.full_like(x, wage), params)
        np.testing.assert_array_equal(reward(given, jax.random.key(0)), [factor * wage] * 4)
