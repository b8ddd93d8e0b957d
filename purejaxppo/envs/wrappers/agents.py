"""Several agents: a team whose agents share a policy, and an agent that plays against a frozen policy.

Both take an environment of A agents that act at the same time: an Env whose observations, actions and rewards have a
leading agent axis [A, ...], whose spaces are those of one agent, and whose flags are scalars, because all agents end an
episode together. `conform(env, num_agents=A)` makes one from loosely written functions. Both return a VecEnv; `resets`
and its sizes are those of `auto_reset`. Axes: N columns of the batch, A agents.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Noise, Observation, Params, PRNGKey, PyTree
from purejaxppo._util.trees import strong_dtypes
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.families import at_params, lift, with_family
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv, describe


def fold_agents(env: Env, num_agents: int, resets: str = "auto", *, quarantine: bool = False, **sizes: int) -> VecEnv:
    """Fold the agents of a team into the batch axis, so that all of them are trained with one shared policy.

    Column t * A + a is agent a of team t. A policy that must tell agents from each other needs an observation that
    contains the number of the agent.

    Args:
        env: the environment of a team, with a leading agent axis [A, ...].
        num_agents: number of agents A; `num_envs` must be a multiple of it.
        resets: a reset mode.
        quarantine: start a new episode where NaN or infinity comes out, as `auto_reset` does.
        sizes: `pool_size`, `refresh` and `stagger` of `auto_reset`.

    Raises:
        ValueError: `num_agents` < 1; an unknown mode; and, where the environment is reset, a `num_envs` that
            `num_agents` does not divide.
    """
    if num_agents < 1:
        raise ValueError(f"fold_agents needs at least 1 agent, not {num_agents}")
    return _fold(auto_reset(env, resets, quarantine=quarantine, **sizes), num_agents)


@lift
def _fold(teams: VecEnv, num_agents: int) -> VecEnv:
    """Return the batch of agents [N, ...] of a batch of teams [N / A, A, ...]."""

    def num_teams(num_envs: int) -> int:
        if num_envs % num_agents:
            raise ValueError(f"num_envs = {num_envs} is not a multiple of the {num_agents} agents of a team")
        return num_envs // num_agents

    def fold(tree: PyTree) -> PyTree:  # [N / A, A, ...] -> [N, ...]
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def unfold(tree: PyTree) -> PyTree:  # [N, ...] -> [N / A, A, ...]
        return jax.tree.map(lambda x: x.reshape(-1, num_agents, *x.shape[1:]), tree)

    def per_agent(x: jax.Array) -> jax.Array:  # [N / A] or [N / A, A] -> [N]
        return fold(jnp.broadcast_to(x[:, None] if x.ndim == 1 else x, (x.shape[0], num_agents)))

    def reset(key: PRNGKey, num_envs: int) -> tuple[EnvState, Observation]:
        env_state, obs = teams.reset(key, num_teams(num_envs))
        return env_state, fold(obs)

    def noise(key: PRNGKey, num_steps: int, num_envs: int) -> Noise:
        return teams.noise(key, num_steps, num_teams(num_envs))

    def step(noise: Noise, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, ts = teams.step(noise, env_state, unfold(action))
        flags = (per_agent(ts.reward), per_agent(ts.terminated), per_agent(ts.truncated))
        told = jax.tree.map(per_agent, (ts.info, ts.quarantined))
        return env_state, TimeStep(fold(ts.obs), *flags, fold(ts.final_obs), *told)

    return teams._replace(reset=reset, noise=noise, step=step, group_size=num_agents)


class OpponentState(NamedTuple):
    """State of `frozen_opponent`."""

    env_state: EnvState  # [N, ...]
    obs: Observation  # [N, A - 1, ...] what the opponents act on next


class OpponentParams(NamedTuple):
    """Environment parameters of `frozen_opponent`, shared by all columns."""

    opponent: Params  # of the opponents' policy
    env: PyTree = ()  # of the environment, if it has parameters


# (params, key, obs [N, A - 1, ...]) -> action [N, A - 1, ...]
OpponentPolicy = Callable[[Params, PRNGKey, Observation], Action]


def frozen_opponent(
    env: Env,
    num_agents: int,
    opponent: OpponentPolicy,
    params: Params = (),
    *,
    seat: int = 0,
    resets: str = "auto",
    quarantine: bool = False,
    **sizes: int,
) -> VecEnv:
    """Play one agent of an environment and let a fixed policy play the others.

    `TrainState.env_params` is `OpponentParams(opponent, env)`, with the parameters of the policy and those of the
    environment, if it has any. `set_env_params` replaces them between updates and without a recompile: by a past self,
    or by another opponent with the same policy function.

    Args:
        env: the environment, with a leading agent axis [A, ...].
        num_agents: number of agents A.
        opponent: (params, key, obs [N, A - 1, ...]) -> action [N, A - 1, ...], of the agents other than `seat`.
        params: its first parameters.
        seat: index of the agent that is trained.
        resets: a reset mode.
        quarantine: start a new episode where NaN or infinity comes out, as `auto_reset` does.
        sizes: `pool_size`, `refresh` and `stagger` of `auto_reset`.

    Raises:
        ValueError: fewer than two agents, `seat` out of range, an unknown mode, or an environment that has separate
            parameters for each column.
    """
    if num_agents < 2 or not 0 <= seat < num_agents:
        raise ValueError(
            f"frozen_opponent needs at least 2 agents and a seat among them, not {num_agents} agents and seat {seat}"
        )
    if env.per_column:
        raise ValueError(
            f"frozen_opponent needs parameters that all columns share, but {describe(env)} has separate parameters for "
            "each column: make it without per_column"
        )
    games = auto_reset(env, resets, quarantine=quarantine, **sizes)
    both = OpponentParams(strong_dtypes(jax.tree.map(jnp.asarray, params)), games.params)

    def family(params: OpponentParams) -> VecEnv:
        return _against(at_params(games, params.env), num_agents, opponent, params.opponent, seat)

    vec = _against(games, num_agents, opponent, both.opponent, seat)
    return with_family(vec, both, family, per_column=False) if jax.tree.leaves(both) else vec


def _against(games: VecEnv, num_agents: int, opponent: OpponentPolicy, params: Params, seat: int) -> VecEnv:
    """Return the batch in which the agent of `seat` plays [N, ...] and `opponent` the others, with these parameters."""
    others = np.delete(np.arange(num_agents), seat)

    def mine(tree: PyTree) -> PyTree:  # [N, A, ...] -> [N, ...]
        return jax.tree.map(lambda x: x[:, seat] if x.ndim > 1 else x, tree)

    def theirs(tree: PyTree) -> PyTree:  # [N, A, ...] -> [N, A - 1, ...]
        return jax.tree.map(lambda x: x[:, others], tree)

    def join(action: jax.Array, other: jax.Array) -> jax.Array:  # [N, ...] and [N, A - 1, ...] -> [N, A, ...]
        return jnp.concatenate([other[:, :seat], action[:, None], other[:, seat:]], axis=1)

    def reset(key: PRNGKey, num_envs: int) -> tuple[OpponentState, Observation]:
        env_state, obs = games.reset(key, num_envs)
        return OpponentState(env_state, theirs(obs)), mine(obs)

    def noise(key: PRNGKey, num_steps: int, num_envs: int) -> Noise:
        key_env, key_opponent = jax.random.split(key)
        return games.noise(key_env, num_steps, num_envs), jax.random.split(key_opponent, num_steps)

    def step(noise: Noise, state: OpponentState, action: Action) -> tuple[OpponentState, TimeStep]:
        step_noise, key = noise
        joint = jax.tree.map(join, action, opponent(params, key, state.obs))
        env_state, ts = games.step(step_noise, state.env_state, joint)
        return OpponentState(env_state, theirs(ts.obs)), mine(ts)

    return games._replace(reset=reset, noise=noise, step=step, params=(), family=None)
