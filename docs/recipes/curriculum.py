"""A goal that is too far away to be found, and a curriculum whose episodes begin farther and farther from it.

Florensa et al. (2017), "Reverse curriculum generation for reinforcement learning", arXiv:1707.05300.
"""

import sys

import jax.numpy as jnp

import purejaxppo as pp
from purejaxppo.envs import Discrete, Env, TimeStep, box

SIZE = 40  # cells between the far end of the corridor and the goal
LIMIT = 60  # steps of an episode


def corridor(params):
    """Return a corridor whose episodes begin `params["distance"]` cells from the goal; only the goal has a reward.

    Each cell has two doors. One leads a cell forward and the other a cell back; which one differs from cell to cell.
    """

    def observe(position):
        return (jnp.arange(SIZE + 1) == position).astype(jnp.float32)

    def reset(key):
        state = (SIZE - params["distance"], jnp.int32(0))
        return state, observe(state[0])

    def step(key, state, action):
        forward = action == state[0] ** 2 % 5 % 2
        position = jnp.clip(state[0] + jnp.where(forward, 1, -1), 0, SIZE)
        count = state[1] + 1
        obs = observe(position)
        found = position == SIZE
        return (position, count), TimeStep(obs, found.astype(jnp.float32), found, count >= LIMIT, obs)

    return Env(reset, step, box(0.0, 1.0, (SIZE + 1,)), Discrete(2), name="corridor")


def climb(algo, state, h, num_updates, goal=0.9):
    """Train, and begin one cell farther away whenever the mean return of an update has reached `goal`."""
    for _ in range(num_updates):
        [(state, metrics)] = pp.iterate(algo, state, h, num_updates=1)
        if metrics.episode_return_mean[0] >= goal:
            distance = jnp.minimum(state.env_params["distance"] + 1, SIZE)
            state = pp.set_env_params(state, {"distance": distance})
    return state


if __name__ == "__main__":
    env = pp.parametrized(corridor, {"distance": SIZE})
    algo = pp.make_ppo(env, pp.mlp(env), pp.Config(num_envs=32, num_steps=64, total_timesteps=32 * 64 * 150))
    h = pp.Hyperparams(learning_rate=2.5e-3, ent_coef=0.01)
    for seed in map(int, sys.argv[1:]):
        direct = climb(algo, pp.init_state(algo, seed, h), h, 150)
        taught = climb(algo, pp.init_state(algo, seed, h, env_params={"distance": 1}), h, 150)
        results = [pp.evaluate(algo, x, 1000 + seed, 128, env_params={"distance": SIZE}) for x in (direct, taught)]
        means = [result.returns.mean() for result in results]
        print(f"seed {seed}: direct {means[0]:.2f}, curriculum {means[1]:.2f} ({taught.env_params['distance']} cells)")
