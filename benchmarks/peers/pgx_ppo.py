"""pgx's PPO for MinAtar from a local checkout as a worker: examples/minatar-ppo/train.py, unchanged."""

import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from protocol import COMMON, jax_worker, load_script, require, serve_checkout, tenth, whole

DIFFERS = ("config.truncation",)  # without a time limit nothing is truncated


def load(checkout, spec):
    """Return the module of the script, which reads its settings when it is imported. Its logging is mocked."""
    reader = types.SimpleNamespace(from_cli=lambda: settings(spec), to_object=dict)
    replaced = {"omegaconf": types.SimpleNamespace(OmegaConf=reader), "wandb": mock.MagicMock()}
    return load_script(checkout / "examples" / "minatar-ppo" / "train.py", replaced)


def settings(spec):
    """Return its settings. Its value loss has a factor of one half, so its coefficient is twice ours."""
    config, h = spec["config"], spec["hyperparams"]
    assert spec["published"].removesuffix("_patches") == "pgx_minatar"
    require(spec, **COMMON)
    require(
        spec,
        env_params={"time_limit": 0},
        config={"normalize_observations": False, "scale_rewards": False},
        hyperparams={"vf_clip_eps": h["clip_eps"], "lr_anneal": 0.0, "adam_eps": 1e-5},
    )
    return {
        "env_name": spec["env"].removeprefix("pgx/"),
        "num_envs": config["num_envs"],
        "num_steps": config["num_steps"],
        "total_timesteps": config["total_timesteps"],
        "update_epochs": config["num_epochs"],
        "minibatch_size": config["num_envs"] * config["num_steps"] // config["num_minibatches"],
        "lr": h["learning_rate"],
        "gamma": h["gamma"],
        "gae_lambda": h["gae_lambda"],
        "clip_eps": h["clip_eps"],
        "ent_coef": h["ent_coef"],
        "vf_coef": 2.0 * h["vf_coef"],
        "max_grad_norm": h["max_grad_norm"],
    }


def build(checkout, spec):
    """Train one seed in one program: a scan over its updates instead of its loop on the host."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    module = load(checkout, spec)
    update = module.make_update_fn()

    def one_update(runner_state, _):
        after, _ = update(runner_state)
        return after, runner_state[0]  # the parameters that acted

    def train(keys):
        key_params, key_env, key = jax.random.split(keys[0], 3)
        params = module.forward.init(key_params, jnp.zeros((1, *module.env.observation_shape)))
        env_state = jax.vmap(module.env.init)(jax.random.split(key_env, spec["config"]["num_envs"]))
        start = (params, module.optimizer.init(params), env_state, env_state.observation, key)
        end, acting = jax.lax.scan(one_update, start, None, whole(spec))
        return {"params": end[0], "acting": acting}

    def keys(seeds):
        return jax.vmap(jax.random.PRNGKey)(seeds)

    def final_returns(out):
        """Return the mean of its evaluation of the policies that acted in the last tenth, outside the measured time."""
        if not spec.get("learning"):
            return [np.nan]
        late = range(whole(spec) - tenth(whole(spec)), whole(spec))
        policies = [jax.tree.map(lambda x, i=i: x[i], out["acting"]) for i in late]
        return [np.mean([module.evaluate(policy, jax.random.PRNGKey(i)) for i, policy in enumerate(policies)])]

    return jax_worker(train, keys, final_returns, spec)


if __name__ == "__main__":
    serve_checkout("pgx", ("jax", "jaxlib", "dm-haiku", "optax", "distrax", "pgx"), build, DIFFERS)
