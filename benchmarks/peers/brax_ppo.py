"""Brax's PPO as a worker: on an environment of brax ("brax/ant") or of MuJoCo Playground, or on gymnax's Pendulum.

It has no discrete policy.

brax's `train` is a loop on the host that compiles again in every call. To measure speed it is called once. Its progress
function, which it calls after every epoch, waits for the next request, so that an epoch is one timed execution.
"""

import functools
import math
import queue
import tempfile
import threading

import gymnax
import jax
import jax.numpy as jnp
from brax.envs import get_environment
from brax.envs.base import Env, State
from brax.training.agents.ppo import networks, train
from flax import linen
from protocol import COMMON, CURVE_EPISODES, PLAIN_NETWORK, require, serve

# What it cannot change, and its networks beyond what `network_options` sets. W5 is a workload of all peers, which has
# other values.
FIXED = {
    "config": {"truncation": "mask", "scale_rewards": False},
    "hyperparams": {"lr_anneal": 0.0, "adam_eps": 1e-8},
}
DIFFERS_ON_W5 = (
    *("config.truncation", "config.scale_rewards"),
    *("hyperparams.lr_anneal", "hyperparams.adam_eps", "hyperparams.reward_clip"),
)
LAYERS = ("kind", "encoder", "symbols", "layer_norm", "shared_torso", "compute_dtype")

TANH_STD = math.log(2.0) + 0.001  # softplus(0) and its minimum


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


def make(spec):
    """Return the arguments of `train` that make the environment, which is truncated by brax's wrappers."""
    suite, _, name = spec["env"].rpartition("/")
    if suite == "playground":
        from mujoco_playground import registry, wrapper

        config = registry.get_default_config(name)
        env = registry.load(name, config_overrides={"impl": "jax"} | dict(spec["env_params"]))
        wrap = wrapper.wrap_for_brax_training
        return {"environment": env, "episode_length": config.episode_length, "wrap_env_fn": wrap}
    if suite != "brax":
        env = Gymnax(name)
        return {"environment": env, "episode_length": env.params.max_steps_in_episode}
    arguments = dict(spec["env_params"])
    limit = arguments.pop("time_limit", 1000)
    return {"environment": get_environment(name, **arguments), "episode_length": limit}


def initial_std(network):
    """Return the argument that sets the standard deviation of the first policy.

    With the tanh policy it is an output y of the network, softplus(y) + 0.001, and starts near y = 0 whatever the
    settings are.
    """
    std = math.exp(network["log_std_init"])
    if network["action_distribution"] == "tanh_gaussian":
        assert abs(std - TANH_STD) < 1e-3, f"its tanh policy starts with a standard deviation of {TANH_STD:.3f}"
        return {}
    return {"init_noise_std": std}


def initializer(network):
    """Return the arguments that set the initializer, which has no gains; without them it is lecun_uniform."""
    if network["kernel_init"] == "orthogonal":
        return {}
    chosen = getattr(linen.initializers, network["kernel_init"])
    return {"policy_network_kernel_init_fn": chosen, "value_network_kernel_init_fn": chosen}


def network_options(network):
    """Return the arguments of `make_ppo_networks`. Its tanh policy always has a state-dependent standard deviation."""
    squashed = network["action_distribution"] == "tanh_gaussian"
    assert network["critic_activation"] == "same", "actor and critic have one activation"
    assert network["state_dependent_std"] == squashed, "it depends on the state with the tanh policy only"
    return (
        {
            "policy_hidden_layer_sizes": tuple(network["hidden_sizes"]),
            "value_hidden_layer_sizes": tuple(network["critic_hidden_sizes"] or network["hidden_sizes"]),
            "activation": getattr(linen, network["activation"]),
            "distribution_type": "tanh_normal" if squashed else "normal",
            "noise_std_type": "log",
        }
        | initial_std(network)
        | initializer(network)
    )


def value_clip(h):
    """Return the range of the clipped value loss; None switches it off, and no values are computed in the rollout."""
    return h["vf_clip_eps"] if math.isfinite(h["vf_clip_eps"]) else None


def settings(spec):
    """Return the arguments of `train`. Its value loss has a factor of one half, so its coefficient is twice ours."""
    config, h = spec["config"], spec["hyperparams"]
    require(spec, **COMMON)
    require(spec, network={name: PLAIN_NETWORK[name] for name in LAYERS})
    if spec["workload"] != "W5":
        require(spec, **FIXED)
    return make(spec) | {
        "num_envs": config["num_envs"],
        "unroll_length": config["num_steps"],
        "batch_size": config["num_envs"] // config["num_minibatches"],
        "num_minibatches": config["num_minibatches"],
        "num_updates_per_batch": config["num_epochs"],
        "learning_rate": h["learning_rate"],
        "discounting": h["gamma"],
        "gae_lambda": h["gae_lambda"],
        "clipping_epsilon": h["clip_eps"],
        "clipping_epsilon_value": value_clip(h),
        "entropy_cost": h["ent_coef"],
        "vf_loss_coefficient": 2.0 * h["vf_coef"],
        "max_grad_norm": h["max_grad_norm"],
        "normalize_observations": config["normalize_observations"],
        "network_factory": functools.partial(networks.make_ppo_networks, **network_options(spec["network"])),
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


class Runs:
    """One run per seed, and 128 episodes after it."""

    def __init__(self, options, steps):
        self.options, self.steps = options, steps
        # every call of `train` compiles the same programs, so that all but the first read them from here
        self.programs = tempfile.TemporaryDirectory()
        jax.config.update("jax_compilation_cache_dir", self.programs.name)
        jax.config.update("jax_enable_compilation_cache", True)

    def train(self, seed):
        """Return the seconds of training, compilation included, and the mean return of the episodes after it."""
        _, _, metrics = train.train(**self.options, num_timesteps=self.steps, num_evals=1, seed=seed)
        return metrics["training/walltime"], float(metrics["eval/episode_reward"])


def curve(options, spec, seed):
    """Train a seed, and evaluate the sampled policy at each of `spec["curve"]` points."""
    points = []

    def progress(steps, metrics):
        if steps:  # else the untrained policy
            minutes = float(metrics["training/walltime"]) / 60.0
            points.append(
                {"env_steps": int(steps), "minutes": minutes, "return": float(metrics["eval/episode_reward"])}
            )

    options = options | {"num_timesteps": spec["config"]["total_timesteps"], "num_eval_envs": CURVE_EPISODES}
    train.train(**options, num_evals=spec["curve"] + 1, seed=seed, progress_fn=progress)
    return {"curve": points}


def build(spec):
    """For speed, run epochs of one run; for learning, one run per seed."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    if spec.get("curve"):
        return functools.partial(curve, settings(spec), spec), {"compile_seconds": None}
    steps, learning = spec["config"]["total_timesteps"], spec.get("learning", False)
    work = (Runs if learning else Epochs)(settings(spec), steps)

    def run(seed):
        seconds, final = work.train(seed) if learning else (work.next(), None)
        return {"seconds": seconds, "env_steps": steps, "final_returns": [final]}

    compile_seconds = None if learning else work.compile_seconds
    return run, {"compile_seconds": compile_seconds, "device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    serve("brax", ("brax", "jax", "jaxlib", "flax", "optax", "gymnax"), build, DIFFERS_ON_W5)
