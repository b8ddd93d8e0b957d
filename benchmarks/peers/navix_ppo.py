"""NAVIX's PPO as a worker, with the network and the raveled observations of the suite's examples."""

import jax
import jax.numpy as jnp
import navix
import numpy as np
from navix.agents import PPO, ActorCritic, PPOHparams
from protocol import PLAIN_NETWORK, check_one_clip, jax_worker, require, serve, tenth, whole

DIFFERS = ("config.truncation", "network.kernel_init")


def raveled(env):
    """Return the environment with observations that are vectors."""
    observe, space = env.observation_fn, env.observation_space
    return env.replace(
        observation_fn=lambda state: jnp.ravel(observe(state)),
        observation_space=space.replace(shape=(int(np.prod(space.shape)),)),
    )


def settings(spec):
    """Return its hyperparameters. Its value loss has a factor of one half, so its coefficient is twice ours."""
    config, h = spec["config"], spec["hyperparams"]
    check_one_clip(spec)
    require(spec, config={"normalize_observations": False, "scale_rewards": False})
    require(spec, network=PLAIN_NETWORK | {"symbols": "scalar"})
    return PPOHparams(
        budget=config["total_timesteps"],
        num_envs=config["num_envs"],
        num_steps=config["num_steps"],
        num_minibatches=config["num_minibatches"],
        num_epochs=config["num_epochs"],
        gae_lambda=h["gae_lambda"],
        clip_eps=h["clip_eps"],
        ent_coef=h["ent_coef"],
        vf_coef=2.0 * h["vf_coef"],
        max_grad_norm=h["max_grad_norm"],
        lr=h["learning_rate"],
        anneal_lr=h["lr_anneal"] == 1.0,
    )


def make(spec):
    """Return its environment, which holds the discount factor."""
    gamma = spec["hyperparams"]["gamma"]
    return raveled(navix.make(spec["env"].removeprefix("navix/"), gamma=gamma, **spec["env_params"]))


def build(spec):
    """Train one seed in one program."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    env = make(spec)
    agent = PPO(hparams=settings(spec), network=ActorCritic(action_dim=len(env.action_set)), env=env)

    def train(keys):
        state, logs = agent.train(keys[0])
        return {"params": state.params, "ended": logs["done_mask"], "returns": logs["returns"]}

    def keys(seeds):
        return jax.vmap(jax.random.PRNGKey)(seeds)

    def final_returns(out):
        late = slice(-tenth(whole(spec)), None)
        ended = np.asarray(out["ended"][late], bool)
        return [np.asarray(out["returns"][late], np.float64)[ended].mean() if ended.any() else np.nan]

    return jax_worker(train, keys, final_returns, spec)


if __name__ == "__main__":
    serve("navix", ("jax", "jaxlib", "flax", "optax", "navix"), build, DIFFERS)
