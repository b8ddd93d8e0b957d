"""The protocol of the workers: one JSON object per line. Compile and time a JAX program.

A worker is started as `python ADAPTER.py [options] SPEC` with the JSON of `spec_of` in compare.py. It compiles, prints
{"ready": true, "peer", "versions", "workload", "compile_seconds", "env_steps", ...} and then answers each line
`run SEED` with {"seconds", "env_steps", "final_returns"}. The returns have one number per seed: the mean return of the
episodes that ended in the last tenth of training, or null if none did. The worker ends when its input does.

If the specification asks for a "curve" of so many points, the reply is {"curve": [{"env_steps", "minutes", "return"},
...]}: the mean return of CURVE_EPISODES episodes of the sampled policy after equal parts of the training, and the
minutes of training until then.

A peer has every setting that the specification names in "settings", or stops: its adapter reads or requires each of
them, or names it as one that differs (`check_read`).

If it is "continued", an execution continues one run, without annealing: its initialization is not timed.

The module imports only the standard library at the top, because each peer has its own virtual environment.
"""

import argparse
import collections
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import sys
import time

CURVE_EPISODES = 32  # of each point of a learning curve

TABLES = ("config", "network", "hyperparams", "env_params")

# Settings that no adapter passes on, with the values that every peer has.
COMMON = {
    "config": {
        "objective": "clip",
        "targets": "gae",
        "policy_step": "gradient",
        "normalize_advantages": True,
        "recompute_advantages": False,
        "stagger": 0,
    },
    "hyperparams": {
        "clip_asymmetry": 1.0,
        "dual_clip": math.inf,
        "target_kl": math.inf,
        "lr_target_kl": math.inf,
        "clip_target_kl": math.inf,
        "adam_b1": 0.9,
        "adam_b2": 0.999,
    },
}

# Two dense torsos, orthogonal and float32, and for continuous actions a Gaussian with one σ for all states.
PLAIN_NETWORK = {
    "kind": "mlp",
    "encoder": "dense",
    "symbols": "one_hot",
    "critic_hidden_sizes": [],
    "critic_activation": "same",
    "layer_norm": False,
    "kernel_init": "orthogonal",
    "shared_torso": False,
    "log_std_init": 0.0,
    "action_distribution": "gaussian",
    "state_dependent_std": False,
    "compute_dtype": "float32",
}


class Table(collections.UserDict):
    """A table of settings that remembers which of them were read."""

    def __init__(self, settings):
        self.read = set()
        super().__init__(settings)

    def __getitem__(self, key):
        """Return the setting."""
        self.read.add(key)
        return self.data[key]


def watched(spec):
    """Return the specification with tables that remember what is read."""
    return spec | {name: Table(spec[name]) for name in TABLES}


def require(spec, **tables):
    """Stop unless the settings have these values, given by table and name."""
    wrong = [
        f"{table}.{name} = {spec[table][name]!r}, not {value!r}"
        for table, values in tables.items()
        for name, value in values.items()
        if spec[table][name] != value
    ]
    assert not wrong, "the peer cannot have " + "; ".join(wrong)


def check_read(spec, differs=()):
    """Stop if an adapter has ignored a setting that has an effect.

    Args:
        spec: the specification, as `watched` returns it, after the adapter has read it.
        differs: dotted names of settings that the peer cannot have. `Peer.differs` in compare.py says what it has.
    """
    missed = []
    for key in spec["settings"]:
        table, _, name = key.partition(".")
        if name not in spec[table].read and key not in differs:
            missed.append(key)
    assert not missed, f"the adapter ignores {', '.join(missed)}: read or require it, or say that it differs"


def serve(peer, packages, build, differs=(), **versions):
    """Answer requests until the input ends.

    Args:
        peer: name of the peer, for the table.
        packages: packages whose versions are reported.
        build: (spec) -> (run, facts). run(seed) returns a reply; the facts are added to the ready message.
        differs: names of settings that the peer cannot have, see `check_read`.
        **versions: further versions to report.
    """
    # Compile times are those of a cold start. JAX reads this variable when it is imported.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    out, sys.stdout = sys.stdout, sys.stderr  # so that the output of a library is not taken for an answer
    spec = watched(json.loads(sys.argv[-1]))

    def answer(message):
        print(json.dumps(message), file=out, flush=True)

    run, facts = build(spec)
    check_read(spec, differs)
    versions |= {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
    steps = spec["config"]["total_timesteps"] * spec["num_seeds"]
    answer(
        {"ready": True, "peer": peer, "workload": spec["workload"], "versions": versions, "env_steps": steps} | facts
    )
    for line in sys.stdin:
        answer(run(int(line.split()[1])))


def serve_checkout(peer, packages, build, differs=()):
    """Do as `serve` for a peer that is a script in a clone: build is (checkout, spec) -> (run, facts)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=pathlib.Path, required=True)
    parser.add_argument("spec")
    serve(peer, packages, functools.partial(build, parser.parse_args().checkout), differs)


def load_script(script, replaced):
    """Import a script of a clone, and what lies beside it, with other modules by name in `replaced`."""
    sys.path.insert(0, str(script.parent))
    sys.modules.update(replaced)
    return importlib.import_module(script.stem)


def check_one_clip(spec, hidden_sizes=(64, 64)):
    """Stop unless the settings are those of a peer with one clip range and these layers, and Adam's eps of 1e-5."""
    one_range = {"vf_clip_eps": spec["hyperparams"]["clip_eps"]}
    network = {"hidden_sizes": list(hidden_sizes), "activation": "tanh"}
    require(spec, **COMMON)
    require(spec, hyperparams=one_range | {"adam_eps": 1e-5}, network=network)


def script_config(spec, hidden_sizes=(64, 64)):
    """Return the settings by the names of PureJaxRL's scripts and of those derived from them, with these layers.

    Their value loss has a factor of one half, so their coefficient is twice ours.
    """
    check_one_clip(spec, hidden_sizes)
    require(spec, network=PLAIN_NETWORK)
    config, h = spec["config"], spec["hyperparams"]
    return {
        "ENV_NAME": spec["env"],
        "NUM_ENVS": config["num_envs"],
        "NUM_STEPS": config["num_steps"],
        "TOTAL_TIMESTEPS": config["total_timesteps"],
        "UPDATE_EPOCHS": config["num_epochs"],
        "NUM_MINIBATCHES": config["num_minibatches"],
        "LR": h["learning_rate"],
        "ANNEAL_LR": h["lr_anneal"] == 1.0,
        "GAMMA": h["gamma"],
        "GAE_LAMBDA": h["gae_lambda"],
        "CLIP_EPS": h["clip_eps"],
        "ENT_COEF": h["ent_coef"],
        "VF_COEF": 2.0 * h["vf_coef"],
        "MAX_GRAD_NORM": h["max_grad_norm"],
        "ACTIVATION": "tanh",
    }


def tenth(num_updates):
    """Return the number of updates in the last tenth of training, at least one."""
    return math.ceil(num_updates / 10)


def whole(spec):
    """Return the number of updates of the run that `spec` describes."""
    config = spec["config"]
    return config["total_timesteps"] // (config["num_envs"] * config["num_steps"])


def compile_cold(function, *args):
    """Compile `function` for `args` and return the program and the seconds it took."""
    import jax

    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return program, time.perf_counter() - start


def kernels_per_env_step(program, num_steps):
    """Return the kernels of a compiled program per step of all environments, or None if its text does not show them."""
    path = pathlib.Path(__file__).resolve().parents[2] / "purejaxppo" / "bench" / "hlo.py"  # standard library only
    spec = importlib.util.spec_from_file_location("hlo", path)
    sys.modules["hlo"] = hlo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hlo)
    return hlo.count(program.as_text()).per_iteration(num_steps)


def stopwatch(program, *args):
    """Execute once and return the results and the seconds until all of them were ready."""
    import jax

    jax.block_until_ready(args)
    start = time.perf_counter()
    out = jax.block_until_ready(program(*args))
    return out, time.perf_counter() - start


def jax_worker(train, keys, final_returns, spec):
    """Return (run, facts) of a peer whose training is one XLA program.

    Args:
        train: (keys) -> results with a leading axis of seeds.
        keys: (seeds, an array of int) -> keys.
        final_returns: (results) -> one return per seed. It is not part of the measured time.
        spec: the work.
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
