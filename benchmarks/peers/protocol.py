"""What every worker speaks: one JSON object per line, and how a JAX program is compiled and timed.

A worker is started as `python ADAPTER.py [options] SPEC`, SPEC being the JSON of `compare.py`'s `Spec`. It compiles,
prints {"ready": true, "peer", "versions", "workload", "compile_seconds", "env_steps", ...} and then answers every line
`run SEED` with {"seconds", "env_steps", "final_returns"}: one number per seed trained, the mean return of the episodes
that ended in the last tenth of training, null where none did. It ends when its input does.

Imports nothing but the standard library at the top: every peer has an environment of its own.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import sys
import time


def serve(peer, packages, build, **versions):
    """Be a worker. build(spec) -> (run, facts): run(seed) -> reply, facts: what the ready line says beside the rest.

    packages: those whose versions it tells, beside the `versions` given.
    """
    # Compile times are of a cold start; JAX reads this when it is imported.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is not an answer
    spec = json.loads(sys.argv[-1])

    def answer(message):
        print(json.dumps(message), file=out, flush=True)

    run, facts = build(spec)
    versions |= {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
    steps = spec["config"]["total_timesteps"] * spec["num_seeds"]
    answer(
        {"ready": True, "peer": peer, "workload": spec["workload"], "versions": versions, "env_steps": steps} | facts
    )
    for line in sys.stdin:
        answer(run(int(line.split()[1])))


def tenth(num_updates):
    """How many updates the last tenth of training is, at least one."""
    return math.ceil(num_updates / 10)


def whole(spec):
    """The number of updates of the run that `spec` describes."""
    config = spec["config"]
    return config["total_timesteps"] // (config["num_envs"] * config["num_steps"])


def compile_cold(function, *args):
    """Trace, lower and compile `function` for `args` -> (program, seconds)."""
    import jax

    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return program, time.perf_counter() - start


def kernels_per_env_step(program, num_steps):
    """How many kernels a step of all environments is in a compiled program; None where its text does not show it."""
    path = (
        pathlib.Path(__file__).resolve().parents[2] / "purejaxppo" / "bench" / "hlo.py"
    )  # needs nothing that a peer may lack
    spec = importlib.util.spec_from_file_location("hlo", path)
    sys.modules["hlo"] = hlo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hlo)
    return hlo.count(program.as_text()).per_iteration(num_steps)


def stopwatch(program, *args):
    """Execute once -> (what came out, seconds until all of it was there)."""
    import jax

    jax.block_until_ready(args)
    start = time.perf_counter()
    out = jax.block_until_ready(program(*args))
    return out, time.perf_counter() - start


def jax_worker(train, keys, final_returns, spec):
    """(run, facts) of a peer that is one XLA program.

    train(keys) -> anything, with the seeds as leading axis; keys(seeds, int array) -> keys; final_returns(out) ->
    one return per seed, computed outside the time that is measured.
    """
    import jax
    import numpy as np

    def batch(seed):
        return keys(seed * spec["num_seeds"] + np.arange(spec["num_seeds"]))

    program, compile_seconds = compile_cold(train, batch(0))

    def run(seed):
        out, seconds = stopwatch(program, batch(seed))
        steps = spec["config"]["total_timesteps"] * spec["num_seeds"]
        returns = [float(x) if np.isfinite(x) else None for x in np.asarray(final_returns(out))]
        return {"seconds": seconds, "env_steps": steps, "final_returns": returns}

    kernels = kernels_per_env_step(program, spec["config"]["num_steps"])
    device = str(jax.devices()[0].device_kind)
    return run, {"compile_seconds": compile_seconds, "device": device, "kernels_per_env_step": kernels}
