"""Checks of one update with an environment and a network."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo._util.aliases import Observation, PyTree, RnnState
from purejaxppo._util.trees import add_time_axis
from purejaxppo.assembly import is_assembled, with_config
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.functional.bindings import TARGETS
from purejaxppo.metrics import Metrics
from purejaxppo.networks.protocol import Network
from purejaxppo.ppo import collect_rollout, observe, state_values
from purejaxppo.training.arguments import as_traced
from purejaxppo.training.checkpoints import save
from purejaxppo.training.doctor.check import NOT_RUN, Check, failed, guarded, not_seen, passed, what_happened
from purejaxppo.training.doctor.gradients import ROWS, gradient_errors
from purejaxppo.training.doctor.programs import computes_in_16_bits, quick_jit, same_program, traced
from purejaxppo.training.health import find_fault
from purejaxppo.training.loop import init_state
from purejaxppo.training.resume import restore
from purejaxppo.types import Algorithm, TrainState

UPDATE = "an update runs and stays finite"
UPDATE_KEYS = "keys are not used twice in an update"
RATIO = "the ratio is 1 at the first minibatch"
GAE = "advantages equal the sum over the rollout"
ONE_COMPILE = "one compile serves all updates"
RESUME = "a saved and restored run continues exactly"
GRADIENT = "the compiled gradient is the one without jit"
LATER = (UPDATE_KEYS, RATIO, GAE, ONE_COMPILE, RESUME, GRADIENT)

MAX_RATIO_ERROR = 1e-3
MAX_GAE_ERROR = 1e-3  # relative to 1 + the largest advantage
MAX_GRADIENT_ERROR = 1e-2  # relative to the largest entry of an array of parameters
MAX_GRADIENT_ERROR_16 = 5e-2  # the same with layers of 16 bits, as bfloat16
NUM_STEPS = 16
NUM_ENVS = 8

Step = Callable[[TrainState, Hyperparams], tuple[TrainState, Metrics]]


class Updated(NamedTuple):
    """What the checks look at: two updates."""

    algo: Algorithm
    h: Hyperparams
    update: Step  # compiled
    traces: list[int]  # an entry for each trace of the update
    states: tuple[TrainState, TrainState, TrainState]  # before, between, and after
    metrics: Metrics  # of the first update


def learning_checks(make: Callable[[], Algorithm]) -> list[Check]:
    """Check two updates of an algorithm.

    Args:
        make: returns the algorithm; what it raises fails the first check.
    """
    try:
        keys, updated = _two_updates(make())
    except Exception as error:
        return [failed(UPDATE, what_happened(error)), *(not_seen(name, NOT_RUN) for name in LATER)]
    later = {RATIO: _ratio, GAE: _gae, ONE_COMPILE: _one_compile, RESUME: _resume, GRADIENT: _gradient}
    checks = [guarded(UPDATE, partial(_finite, updated)), keys]
    return checks + [guarded(name, partial(check, updated)) for name, check in later.items()]


def small_algorithm(algo: Algorithm) -> Algorithm:
    """Return an algorithm with the functions of another one and small sizes; an own `update` keeps its sizes."""
    return with_config(algo, small_config(algo.config, algo.env)) if is_assembled(algo) else algo


def small_config(config: Config, env: Env | VecEnv) -> Config:
    """Return the settings of an update of a few hundred steps that runs the same code."""
    group = env.group_size if isinstance(env, VecEnv) else 1
    num_envs = 2 * group * -(-NUM_ENVS // (2 * group))
    length = config.sequence_length or NUM_STEPS
    num_steps = length * -(-NUM_STEPS // length)
    return dataclasses.replace(
        config,
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=min(config.num_epochs, 2),
        num_minibatches=2,
        total_timesteps=8 * num_envs * num_steps,
        targets="gae",
        truncation="bootstrap",
        scale_rewards=False,
        microbatch_size=0,
        num_devices=1,
        pool_size=min(config.pool_size, NUM_STEPS),
        pool_refresh=min(config.pool_refresh, config.pool_size, NUM_STEPS),
    )


def _two_updates(algo: Algorithm) -> tuple[Check, Updated]:
    """Run two updates, under JAX's check of key reuse if they pass it."""
    h = as_traced(Hyperparams())
    try:
        with jax.debug_key_reuse(True):
            return passed(UPDATE_KEYS), _run(algo, h)
    except jax.errors.KeyReuseError as error:
        check = failed(UPDATE_KEYS, f"{what_happened(error)}: split the key, and use each part once")
    return check, _run(algo, h)


def _run(algo: Algorithm, h: Hyperparams) -> Updated:
    traces: list[int] = []

    def update(state: TrainState, h: Hyperparams) -> tuple[TrainState, Metrics]:
        traces.append(1)
        return algo.update(state, h)

    compiled = quick_jit(update)
    before = init_state(algo, 0, h)
    between, metrics = compiled(before, h)
    after, _ = compiled(between, h)
    return Updated(algo, h, compiled, traces, (before, between, after), metrics)


def _finite(updated: Updated) -> Check:
    one = jax.tree.map(lambda x: x[None], updated.metrics)
    fault = find_fault(one, updated.algo.env.name)
    return failed(UPDATE, str(fault)) if fault else passed(UPDATE)


def _ratio(updated: Updated) -> Check:
    error = float(updated.metrics.first_ratio_error)
    if error <= MAX_RATIO_ERROR:  # NaN fails
        return passed(RATIO)
    return failed(
        RATIO,
        f"it differs from 1 by {error:.3g}: the network gives other probabilities in a minibatch than in the rollout; "
        "its output for one observation must not depend on the others of the batch (batch statistics), on random "
        "numbers (dropout), or on the recurrent state of another step",
    )


def _one_compile(updated: Updated) -> Check:
    if len(updated.traces) == 1:
        return passed(ONE_COMPILE)
    before, between, _ = (jax.tree_util.tree_leaves_with_path(state) for state in updated.states)
    pairs = [
        (jax.tree_util.keystr(path), jax.typeof(x), jax.typeof(y))
        for (path, x), (_, y) in zip(before, between, strict=True)
    ]
    changed = [f"state{name}: {x} against {y}" for name, x, y in pairs if str(x) != str(y)]
    return failed(
        ONE_COMPILE,
        f"the second update was compiled again: {'; '.join(changed[:3]) or 'a weak type or a static value changed'}; "
        "give arrays a dtype, and keep Python values out of the state",
    )


def _resume(updated: Updated) -> Check:
    algo, (_, between, after) = updated.algo, updated.states
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "checkpoint", between, updated.h, algo=algo)
        restored = restore(Path(folder) / "checkpoint", algo)
    advice = "keep everything that changes in the state of the environment, as arrays"
    if not _same(restored.state, between):
        return failed(RESUME, f"the restored state is another one: {advice}")
    programs = [traced(algo.update, between, updated.h) for _ in range(2)]
    if programs[0].effects:
        return not_seen(
            RESUME,
            "the environment runs on the host: its state is in no checkpoint, and a resumed run starts new episodes",
        )
    if not _same(updated.update(restored.state, restored.hyperparams)[0], after):
        return failed(RESUME, f"the update after restoring gives another state: {advice}")
    if not same_program(*programs):
        return failed(
            RESUME,
            "the update is another program each time that it is traced, as with np.random or a counter in reset, step "
            "or apply: a new process would continue with other numbers",
        )
    return passed(RESUME)


def _gradient(updated: Updated) -> Check:
    errors = gradient_errors(updated.algo, updated.states[1], updated.h)
    limit = max_gradient_error(updated.algo.network, updated.states[1])
    wrong = {name: error for name, error in errors.items() if not error <= limit}
    if not wrong:
        return passed(GRADIENT)
    name = max(wrong, key=lambda name: wrong[name])
    other = _flag_advice(version("jaxlib"), jax.default_backend())
    return failed(
        GRADIENT,
        f"with {ROWS} rows the gradient of params{name} differs by {wrong[name]:.2g} times its largest entry, which "
        f"points to a fault of the compiler of jaxlib {version('jaxlib')}: select by index "
        f"(jnp.take_along_axis) instead of multiplying with jax.nn.one_hot{other}",
    )


def max_gradient_error(network: Network, state: TrainState) -> float:
    """Return the largest difference of gradients that rounding explains, by the dtypes in the network."""
    is_first = jnp.zeros((1, len(jax.tree.leaves(state.obs)[0])), bool)
    program = traced(network.apply, state.params, state.rnn_state, add_time_axis(state.obs), is_first)
    return MAX_GRADIENT_ERROR_16 if computes_in_16_bits(program) else MAX_GRADIENT_ERROR


def _flag_advice(jaxlib: str, backend: str) -> str:
    """Return the environment variable that avoids the fault; other versions may abort at an unknown flag."""
    if backend != "cpu":
        return ""
    flag = "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type="
    if jaxlib == "0.10.2":
        return f", or set {flag} before JAX starts (jaxlib 0.10.2 alone: other versions may abort at an unknown flag)"
    return f"; jaxlib 0.10.2 also has {flag}; jaxlib {jaxlib} may abort at an unknown flag"


def _same(a: PyTree, b: PyTree) -> bool:
    """Return whether two trees are bitwise the same."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(_bits(x) == _bits(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _bits(x: Array) -> bytes:
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()


# Advantages ----------------------------------------------------------------------------------------------------------


def _gae(updated: Updated) -> Check:
    found = jax.device_get(quick_jit(partial(_advantages, updated.algo))(updated.states[1], updated.h))
    rewards, terminated, truncated, values, next_values, advantage = found
    gamma, decay = float(updated.h.gamma), float(updated.h.gae_lambda)
    expected = slow_gae(rewards, values, next_values, terminated, truncated, gamma, decay)
    error = np.abs(expected - advantage)
    if (error <= MAX_GAE_ERROR * (1 + np.abs(expected).max())).all():
        return passed(GAE)
    t, n = np.unravel_index(np.nanargmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    return failed(
        GAE,
        f"they differ from GAE over the rollout by {error[t, n]:.3g} in step {t} of environment {n}: within an "
        "episode, final_obs of a step must equal the obs that is acted on next, and the network must not mix the batch",
    )


def _advantages(algo: Algorithm, state: TrainState, h: Hyperparams) -> tuple[Array, ...]:
    """Return rewards, flags, V(s), V(s') and the advantages of a rollout, [T, N] each.

    V(s') comes from `final_obs` of each step alone; training reads it from the next row where it can.
    """
    ppo = algo.components
    ppo = ppo._replace(plan=ppo.plan.keeping_all_final_observations())
    after, rollout = collect_rollout(ppo, state, state.key)
    flags = (rollout.terminated, rollout.truncated)
    values, next_values = state_values(ppo, state.params, after, rollout)
    advantage, _ = TARGETS["gae"](rollout.reward, values, next_values, *flags, h, ppo.config.n_step)

    def value_after(step: tuple[RnnState, Observation, Observation, Array]) -> Array:
        rnn_state, obs, final_obs, is_first = step
        pair = observe(ppo, state, jax.tree.map(lambda a, b: jnp.stack([a, b]), obs, final_obs))
        return algo.network.apply(state.params, rnn_state, pair, jnp.stack([is_first, jnp.zeros_like(is_first)]))[2][1]

    after_step = jax.lax.map(value_after, (rollout.rnn_state, rollout.obs, rollout.final_obs, rollout.is_first))
    return rollout.reward, *flags, values, after_step, advantage


def slow_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Return GAE (10) in float64 as the double sum Â_t = Σ_l (γλ)^l δ_{t+l}, up to the end of the episode.

    Schulman et al. (2016), arXiv:1506.02438.

    Args:
        rewards: r_t, [T, N].
        values: V(s_t), [T, N].
        next_values: V(s'_t) of the state after step t, before any reset, [T, N].
        terminated: [T, N] bool; V(s'_t) counts as 0.
        truncated: [T, N] bool.
        gamma: γ.
        gae_lambda: λ.

    Returns:
        Â_t, [T, N].
    """
    num_steps, num_envs = rewards.shape
    advantage = np.zeros((num_steps, num_envs))
    for n in range(num_envs):
        for t in range(num_steps):
            weight = 1.0
            for k in range(t, num_steps):
                after = 0.0 if terminated[k, n] else float(next_values[k, n])
                advantage[t, n] += weight * (float(rewards[k, n]) + gamma * after - float(values[k, n]))
                weight *= gamma * gae_lambda
                if terminated[k, n] or truncated[k, n]:
                    break
    return advantage
