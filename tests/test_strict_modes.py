"""Every shipped config trains under other settings of JAX: no NaN within the program, and float32 under x64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slow import slow_except

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
QUICK = ["pendulum", "memory_chain_gru", "nim_masked"]  # continuous; recurrent; masked and discrete

TRAIN = """
import sys
from dataclasses import replace
import jax
import jax.numpy as jnp
import purejaxppo as pp
from purejaxppo.config.toml import load_toml

for path in sys.argv[1:]:
    run = load_toml(path)
    sizes = dict(num_envs=8, num_steps=16, num_minibatches=2, num_devices=1, total_timesteps=8 * 16 * 3)
    if run.config.sequence_length:
        sizes |= dict(sequence_length=8, burn_in=min(run.config.burn_in, 4))
    config = replace(run.config, **sizes)
    env = pp.make(run.env, **run.env_params)
    algo = pp.make_ppo(env, pp.make_network(env, run.network), config)
    state, metrics = pp.train(algo, run.seed, run.hyperparams)
    assert metrics.kl.shape == (3,)
    result = pp.evaluate(algo, state, 1, num_episodes=2, max_steps=8)
    trained = (state.params, state.opt_state, state.obs_moments, metrics, result)
    floats = [x for x in jax.tree.leaves(trained) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype.name for x in floats} == {"float32"}, path
    assert all(bool(jnp.isfinite(x).all()) for x in floats), path
    print("trained", path)
"""


def train(names, **modes):
    """Train configs in a new process -> (names of those that trained, the end of its error output)."""
    paths = [str(ROOT / "configs" / f"{name}.toml") for name in names]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **modes}
    command = [sys.executable, "-c", TRAIN, *paths]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=3000)
    return [line.rpartition("/")[2].removesuffix(".toml") for line in done.stdout.splitlines()], done.stderr[-3000:]


@pytest.mark.parametrize("names", slow_except([QUICK[:1], QUICK[1:]], QUICK[:1]))
def test_quick_configs_train_under_x64_and_debug_nans(names):
    trained, errors = train(names, JAX_ENABLE_X64="1", JAX_DEBUG_NANS="1")
    assert trained == names, errors


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["JAX_ENABLE_X64", "JAX_DEBUG_NANS"])
def test_every_shipped_config_trains_under(mode):
    trained, errors = train(CONFIGS, **{mode: "1"})
    assert trained == CONFIGS, errors
