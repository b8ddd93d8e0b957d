"""Craftax_Baselines' PPO from a local checkout as a worker: ppo.py, unchanged."""

from unittest import mock

import jax
import numpy as np
from protocol import jax_worker, load_script, require, script_config, serve_checkout, tenth, whole

UNUSED = ("wandb", "orbax", "orbax.checkpoint", "flax.training.orbax_utils")
LAYERS = 3  # of its symbolic network, for actor and critic each


def load(checkout):
    """Return the module of the script. What it imports to log and to save is mocked."""
    return load_script(checkout / "ppo.py", {name: mock.MagicMock() for name in UNUSED})


def translated(spec):
    """Return its config. It generates one world for each `OPTIMISTIC_RESET_RATIO` environments and step."""
    config = spec["config"]
    width = spec["network"]["hidden_sizes"][0]
    worlds = config["pool_size"]
    assert config["pool_refresh"] == worlds, "all its worlds are new in every step"
    assert config["num_envs"] % worlds == 0, "as many environments for each new world"
    require(spec, config={"normalize_observations": False, "scale_rewards": False, "truncation": "terminal"})
    return script_config(spec, [width] * LAYERS) | {
        "LAYER_SIZE": width,
        "USE_OPTIMISTIC_RESETS": True,
        "OPTIMISTIC_RESET_RATIO": config["num_envs"] // worlds,
        "TRAIN_ICM": False,
        # Its metrics leave the program only by way of its log, which costs time.
        "DEBUG": bool(spec.get("learning")),
        "USE_WANDB": bool(spec.get("learning")),
    }


def build(checkout, spec):
    """Train one seed in one program; only a learning run logs."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    script, config = load(checkout), translated(spec)
    logged = {}
    script.create_log_dict = lambda metric, config: float(metric["returned_episode_returns"])
    script.batch_log = lambda update, mean, config: logged.update({int(update): mean})
    one = script.make_train(config | {"ENV_NAME": config["ENV_NAME"].removeprefix("craftax/")})

    def train(keys):
        return one(keys[0])

    def keys(seeds):
        return jax.vmap(jax.random.PRNGKey)(seeds)

    def final_returns(out):
        """The log has the mean of each update, NaN without an episode."""
        jax.effects_barrier()
        means = [logged[i] for i in sorted(logged)[-tenth(whole(spec)) :]]
        logged.clear()
        ended = np.asarray(means)[np.isfinite(means)]
        return [ended.mean() if ended.size else np.nan]

    return jax_worker(train, keys, final_returns, spec)


if __name__ == "__main__":
    serve_checkout("Craftax_Baselines", ("jax", "jaxlib", "flax", "optax", "distrax", "craftax"), build)
