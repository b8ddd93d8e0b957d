"""purejaxppo as a worker."""

import dataclasses
import functools
import time

import jax
import numpy as np
from protocol import CURVE_EPISODES, jax_worker, serve, tenth, whole

import purejaxppo as pp

MANY = 1000  # executions of a run that is continued


def network_of(env, spec):
    """Return the environment and its network, which is built from settings, or one that the suite publishes."""
    if spec["published"]:
        from published_networks import NETWORKS

        return NETWORKS[spec["published"]](env, spec)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["network"].items()}
    return env, pp.make_network(env, pp.NetworkConfig(**settings))


def curve(algo, h, spec, seed):
    """Train a seed, and evaluate the sampled policy at each of `spec["curve"]` points."""
    points, seconds = [], 0.0
    chunks = pp.iterate(algo, pp.init_state(algo, seed, h), h, chunk=whole(spec) // spec["curve"])
    start = time.perf_counter()
    for state, _ in chunks:
        steps = int(state.num_updates) * algo.config.timesteps_per_update
        seconds += time.perf_counter() - start
        played = pp.evaluate(algo, state, 1_000_003 + seed, CURVE_EPISODES, greedy=False)
        points.append({"env_steps": steps, "minutes": seconds / 60.0, "return": float(played.returns.mean())})
        start = time.perf_counter()
    return {"curve": points}


def continued(algo, h, spec):
    """Continue one run in each execution, so that its initialization is not timed."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    chunks = pp.iterate(algo, pp.init_state(algo, 0, h), h, chunk=whole(spec))

    def run(seed):
        start = time.perf_counter()
        jax.block_until_ready(next(chunks))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "env_steps": spec["config"]["total_timesteps"], "final_returns": [None]}

    first, second = run(0)["seconds"], run(0)["seconds"]
    return run, {"compile_seconds": first - second, "device": jax.devices()[0].device_kind}


def build(spec):
    """Train `num_seeds` seeds in one program, with `sweep` if there are several."""
    config = pp.Config(**spec["config"])
    if spec.get("continued"):
        config = dataclasses.replace(config, total_timesteps=MANY * config.total_timesteps)
    pp.prepare_cpu(config.timesteps_per_update // config.num_minibatches, spec["num_seeds"])  # as the command line does
    env = pp.make(spec["env"], **spec["env_params"])
    env, network = network_of(env, spec)
    algo = pp.make_ppo(env, network, config)
    h = pp.Hyperparams(**spec["hyperparams"])

    if spec.get("continued"):
        return continued(algo, h, spec)
    if spec.get("curve"):
        return functools.partial(curve, algo, h, spec), {"compile_seconds": None}

    def train(keys):
        if spec["num_seeds"] > 1:
            return jax.tree.map(lambda x: x[0], pp.sweep(algo, keys, h))
        return jax.tree.map(lambda x: x[None], pp.train(algo, keys[0], h))

    def keys(seeds):
        return jax.vmap(jax.random.key)(seeds)

    def final_returns(out):
        metrics = jax.tree.map(lambda x: np.asarray(x, np.float64)[:, -tenth(whole(spec)) :], out[1])
        counts = metrics.num_episodes
        sums = np.where(counts > 0, metrics.episode_return_mean, 0.0) * counts
        with np.errstate(invalid="ignore"):  # NaN where no episode ended
            return sums.sum(1) / counts.sum(1)

    return jax_worker(train, keys, final_returns, spec)


if __name__ == "__main__":
    serve("purejaxppo", ("jax", "jaxlib", "flax", "optax", "gymnax"), build, purejaxppo=pp.__version__)
