"""Brax's PPO as a worker, on gymnax's Pendulum behind brax's environment interface. It has no discrete policy.

brax's `train` is a loop on the host that compiles again in every call. To measure speed it is called once. Its progress
function, which it calls after every epoch, waits for the next request, so that an epoch is one timed execution.
"""

import functools
import queue
import threading

import gymnax
import jax
import jax.numpy as jnp
from brax.envs.base import Env, State
from brax.training.agents.ppo import networks, train
from flax import linen
from protocol import serve


class Gymnax(Env):
    """A gymnax environment as a brax environment, without auto-reset: brax's wrappers apply the time limit."""

    def __init__(self, name):
        self.env, self.params = gymnax.make(name)

    def reset(self, rng):
        rng, key = jax.random.split(rng)
        obs, state = self.env.reset_env(key, self.params)
        return State((rng, state), obs, jnp.zeros(()), jnp.zeros(()))

    def step(self, state, action):
        rng, key = jax.random.split(state.pipeline_state[0])
        obs, inner, reward, _, _ = self.env.step_env(key, state.pipeline_state[1], action, self.params)
        return state.replace(pipeline_state=(rng, inner), obs=obs, reward=jnp.reshape(reward, ()), done=state.done * 0)

    @property
    def observation_size(self):
        return self.env.observation_space(self.params).shape[0]

    @property
    def action_size(self):
        return self.env.action_space(self.params).shape[0]

    @property
    def backend(self):
        return "gymnax"


def settings(spec, env):
    """Return the arguments of `train`. Its value loss has a factor of one half, so its coefficient is twice ours."""
    config, h = spec["config"], spec["hyperparams"]
    sizes = tuple(spec["network"]["hidden_sizes"])
    network = functools.partial(
        networks.make_ppo_networks,
        policy_hidden_layer_sizes=sizes,
        value_hidden_layer_sizes=sizes,
        activation=getattr(linen, spec["network"]["activation"]),
        distribution_type="normal",
        noise_std_type="log",
    )
    return {
        "environment": env,
        "episode_length": env.params.max_steps_in_episode,
        "num_envs": config["num_envs"],
        "unroll_length": config["num_steps"],
        "batch_size": config["num_envs"] // config["num_minibatches"],
        "num_minibatches": config["num_minibatches"],
        "num_updates_per_batch": config["num_epochs"],
        "learning_rate": h["learning_rate"],
        "discounting": h["gamma"],
        "gae_lambda": h["gae_lambda"],
        "clipping_epsilon": h["clip_eps"],
        "clipping_epsilon_value": h["vf_clip_eps"],
        "entropy_cost": h["ent_coef"],
        "vf_loss_coefficient": 2.0 * h["vf_coef"],
        "max_grad_norm": h["max_grad_norm"],
        "normalize_observations": config["normalize_observations"],
        "network_factory": network,
    }


class Epochs:
    """An endless run in a thread. `next()` lets it run one epoch and returns the seconds that brax measured."""

    def __init__(self, options, steps):
        self.go, self.done, self.walltime = queue.Queue(), queue.Queue(), 0.0
        options = options | {"num_timesteps": 1000 * steps, "num_evals": 1001, "run_evals": False}
        run = functools.partial(train.train, **options, progress_fn=self.progress)
        threading.Thread(target=run, daemon=True).start()
        first, second, third = self.done.get(timeout=600), self.next(), self.next()
        self.compile_seconds = first + second - 2.0 * third  # it compiles in the first epoch and again in the second

    def progress(self, _, metrics):
        walltime = float(metrics["training/walltime"])
        self.done.put(walltime - self.walltime)
        self.walltime = walltime
        self.go.get()  # waits, because the other side is timed meanwhile

    def next(self):
        self.go.put(None)
        return self.done.get(timeout=600)


def build(spec):
    """For speed, run epochs of one run; for learning, one run per seed and 128 episodes after it."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    steps = spec["config"]["total_timesteps"]
    options = settings(spec, Gymnax(spec["env"]))
    epochs = None if spec.get("learning") else Epochs(options, steps)

    def run(seed):
        if epochs is not None:
            return {"seconds": epochs.next(), "env_steps": steps, "final_returns": [None]}
        _, _, metrics = train.train(**options, num_timesteps=steps, num_evals=1, seed=seed)
        final = float(metrics["eval/episode_reward"])
        return {"seconds": metrics["training/walltime"], "env_steps": steps, "final_returns": [final]}

    return run, {"compile_seconds": epochs and epochs.compile_seconds, "device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    serve("brax", ("brax", "jax", "jaxlib", "flax", "optax", "gymnax"), build)
