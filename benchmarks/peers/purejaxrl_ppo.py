"""PureJaxRL from a local checkout as a worker: its `ppo.py`, or `ppo_continuous_action.py` on a gymnax environment.

The algorithm is unchanged. The adapter sets the config. For continuous actions it also replaces the environment (gymnax
instead of brax), the bounds of the actions, and the width of the layers, which is 256 in the script.
"""

import functools
import re
import sys
import types
from unittest import mock

import gymnax
import jax
import numpy as np
from protocol import jax_worker, script_config, serve_checkout, tenth, whole

DIFFERS = ("config.truncation", "hyperparams.reward_clip")
UNUSED = ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix")


class Gymnax:
    """A gymnax environment with its default parameters, for a script that passes None for them."""

    def __init__(self, env, params):
        self.env, self.params = env, params

    def reset(self, key, params=None):
        return self.env.reset(key, self.params)

    def step(self, key, state, action, params=None):
        return self.env.step(key, state, action, self.params)

    def observation_space(self, params):
        return self.env.observation_space(self.params)

    def action_space(self, params):
        return self.env.action_space(self.params)


def load(script, width=None):
    """Return the module of a script. Imports of suites that no workload uses are mocked."""
    sys.path.insert(0, str(script.parent))
    sys.modules.update({name: mock.MagicMock() for name in UNUSED if name not in sys.modules})
    source = script.read_text()
    if width is not None:
        source, count = re.subn(r"(nn\.Dense\(\s*)256\b", rf"\g<1>{width}", source)
        assert count == 4, f"{script}: expected 4 layers of width 256, found {count}"
    module = types.ModuleType(script.stem)
    exec(compile(source, str(script), "exec"), module.__dict__)
    return module


def scripted(checkout, spec):
    """Return `make_train` of the script for the workload."""
    env, params = gymnax.make(spec["env"])
    if hasattr(env.action_space(params), "n"):
        return load(checkout / "purejaxrl" / "ppo.py").make_train
    module = load(checkout / "purejaxrl" / "ppo_continuous_action.py", width=64)
    module.BraxGymnaxWrapper = lambda name: Gymnax(env, params)
    space = env.action_space(params)
    module.ClipAction = functools.partial(module.ClipAction, low=space.low, high=space.high)
    return module.make_train


def translated(spec):
    """Return its config."""
    config = spec["config"]
    assert config["normalize_observations"] == config["scale_rewards"], "it has one switch for both"
    return script_config(spec) | {"NORMALIZE_ENV": config["normalize_observations"], "DEBUG": False}


def build(checkout, spec):
    """Train `num_seeds` seeds in one program, with vmap if there are several."""
    one = scripted(checkout, spec)(translated(spec))

    def train(keys):
        if spec["num_seeds"] > 1:
            return jax.vmap(one)(keys)
        return jax.tree.map(lambda x: x[None], one(keys[0]))

    def keys(seeds):
        return jax.vmap(jax.random.PRNGKey)(seeds)

    def final_returns(out):
        metrics = out["metrics"]
        late = slice(-tenth(whole(spec)), None)
        ended = np.asarray(metrics["returned_episode"][:, late], bool)
        returns = np.asarray(metrics["returned_episode_returns"][:, late], np.float64)
        return [r[e].mean() if e.any() else np.nan for r, e in zip(returns, ended, strict=True)]

    return jax_worker(train, keys, final_returns, spec)


if __name__ == "__main__":
    serve_checkout("PureJaxRL", ("jax", "jaxlib", "flax", "optax", "distrax", "gymnax"), build, DIFFERS)
