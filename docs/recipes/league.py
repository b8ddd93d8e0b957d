"""Self-play of a game of two: the opponent is a past self, drawn from a pool. Its parameters are data of the program.

Bansal et al. (2018), "Emergent complexity via multi-agent competition", arXiv:1710.03748.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import purejaxppo as pp


def against(make, network):
    """Return a function params -> the game in which the policy with these parameters has the other seat."""

    def make_env(params):
        def opponent(key, obs):
            one = jax.tree.map(lambda x: x[None, None], obs)  # axes of time and of environments
            _, distribution, _ = network.apply(params, (), one, jnp.zeros((1, 1), bool))
            return distribution.sample(key)[0, 0]

        return make(opponent=opponent)

    return make_env


def play_league(algo, state, h, num_updates, pool, every=10, size=12, newest=0.5, seed=0):
    """Train each update against the newest self with probability `newest`, else against one of `pool`, which grows."""
    draw = np.random.default_rng(seed)
    for i in range(num_updates):
        past = state.params if draw.random() < newest else pool[draw.integers(len(pool))]
        state = pp.set_env_params(state, jax.device_get(past))
        [(state, _)] = pp.iterate(algo, state, h, num_updates=1)
        if i % every == every - 1:
            pool.append(jax.device_get(state.params))
        if len(pool) > size:
            pool.pop(draw.integers(1, size))  # not the first, which plays at random, and not the newest
    return state


if __name__ == "__main__":
    game, num_updates = f"pgx/{sys.argv[1]}", int(sys.argv[2])
    config = pp.Config(
        num_envs=256, num_steps=32, num_epochs=4, total_timesteps=num_updates * 256 * 32, resets="state_pool"
    )
    h = pp.Hyperparams(learning_rate=2e-3, gamma=1.0, ent_coef=0.15)  # with less entropy all selves play the same games
    judges = [pp.make(game, opponent=name) for name in ("random", "one_step")]
    network = pp.mlp(judges[0], (128, 128))
    make_env = against(lambda opponent: pp.make(game, opponent=opponent), network)
    algo = pp.make_ppo(pp.parametrized(make_env, network.init(jax.random.key(0))), network, config)
    state = pp.init_state(algo, 0, h)
    state = play_league(algo, state, h, num_updates, [jax.device_get(state.params)])
    for env in judges:
        returns = pp.evaluate(pp.make_ppo(env, network, config), state._replace(env_params=()), 1, 1000).returns
        print(f"{(returns > 0).mean():.3f} won, {(returns < 0).mean():.3f} lost", flush=True)
