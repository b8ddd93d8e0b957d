"""Checks of an environment alone, by its traces and by random play."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, PRNGKey
from purejaxppo.envs.conformance import NOT_OF_SPACE, conform, protocol_problems
from purejaxppo.envs.masks import action_mask, check_mask
from purejaxppo.envs.protocol import Env, VecEnv, check_is_env, key_aval
from purejaxppo.envs.spaces import Box, sample_space
from purejaxppo.training.doctor.check import NOT_RUN, Check, failed, guarded, not_seen, passed, what_happened
from purejaxppo.training.doctor.play import Play, place, play_program
from purejaxppo.training.doctor.programs import Program, draws_random_numbers, same_program, traced, uses_input

PROTOCOL = "reset and step can be traced"
SPACES = "spaces agree with what reset and step return"
DTYPES = "dtypes are the same after reset and after every step"
KEYS = "keys are not used twice by reset and step"
FINITE = "observations and rewards are finite"
DETERMINISTIC = "reset and step are deterministic under the key"
NOISE = "noise differs between steps and environments"
TERMINATION = "episodes terminate"
TRUNCATION = "episodes are truncated"
DISTINGUISHED = "termination and truncation are distinguished"
MASKS = "action masks always allow something"
PLAYED = (SPACES, DTYPES, KEYS, FINITE, DETERMINISTIC, NOISE, TERMINATION, TRUNCATION, DISTINGUISHED, MASKS)

MIN_EPISODES = 8  # before equal lengths mean anything


class Examined(NamedTuple):
    """What the checks look at."""

    env: Env | VecEnv
    num_envs: int
    play: Play  # NumPy arrays
    again: Callable[[], Play]  # plays once more with the same key


def environment_checks(env: Env | VecEnv, num_steps: int, num_envs: int) -> list[Check]:
    """Check an environment.

    Args:
        env: the environment.
        num_steps: T, steps of random play.
        num_envs: N, environments of random play.
    """
    try:
        check_is_env(env)
        problems = protocol_problems(env, num_envs)
    except Exception as error:
        return [failed(PROTOCOL, what_happened(error)), *(not_seen(name, NOT_RUN) for name in PLAYED)]
    shapes = _shapes(problems)
    keys, examined = _played(usable(env, problems), num_steps, num_envs)
    if examined is None:
        rest = [not_seen(name, NOT_RUN) for name in PLAYED[4:]]
        finite = not_seen(FINITE, NOT_RUN) if problems else failed(FINITE, f"random play failed: {keys.advice}")
        return [passed(PROTOCOL), *shapes, keys, finite, *rest]
    later: dict[str, Callable[[Examined], Check]] = {
        FINITE: _finite,
        DETERMINISTIC: _deterministic,
        NOISE: _noise,
        TERMINATION: _termination,
        TRUNCATION: _truncation,
        DISTINGUISHED: _distinguished,
        MASKS: _masks,
    }
    shapes[0] = _bounds(shapes[0], examined)
    checks = [passed(PROTOCOL), *shapes, keys]
    return checks + [guarded(name, partial(check, examined)) for name, check in later.items()]


def usable(env: Env | VecEnv, problems: list[str]) -> Env | VecEnv:
    """Return an environment with the dtypes corrected if `protocol_problems` found some and `conform` can do that."""
    if isinstance(env, VecEnv) or not problems:
        return env
    try:
        return conform(env)
    except Exception:
        return env


def _shapes(problems: list[str]) -> list[Check]:
    """Return the checks of spaces and of dtypes, by shapes."""
    of_space = [problem for problem in problems if problem.startswith(NOT_OF_SPACE)]
    others = [problem for problem in problems if problem not in of_space]
    advice = "correct observation_space, or let conform(env) adapt its shape and dtype"
    spaces = failed(SPACES, f"{'; '.join(of_space)}: {advice}") if of_space else passed(SPACES)
    advice = "conform(env) gives every leaf one dtype"
    return [spaces, failed(DTYPES, f"{'; '.join(others)}: {advice}") if others else passed(DTYPES)]


def _bounds(check: Check, examined: Examined) -> Check:
    """Return the check of spaces after a look at the values of random play."""
    if not check.passed:
        return check
    for space, excess in zip(jax.tree.leaves(examined.env.observation_space), examined.play.outside, strict=True):
        if isinstance(space, Box) and (excess > 0).any():
            advice = f"an observation lies outside of {space} by {excess.max():.3g}, {place(excess > 0)}"
            return failed(SPACES, f"{advice}: correct the bounds of observation_space, or clip the observation")
    return check


def _played(env: Env | VecEnv, num_steps: int, num_envs: int) -> tuple[Check, Examined | None]:
    """Play at random, under JAX's check of key reuse; None if it is impossible."""
    check = passed(KEYS)
    for debug in (True, False):
        program = play_program(env, num_steps, num_envs)

        def again(program: Callable[[PRNGKey], Play] = program, debug: bool = debug) -> Play:
            with jax.debug_key_reuse(debug):
                return jax.device_get(program(jax.random.key(0)))

        try:
            return check, Examined(env, num_envs, again(), again)
        except jax.errors.KeyReuseError as error:
            check = failed(KEYS, f"{what_happened(error)}: split the key, and use each part once")
        except Exception as error:
            return check if check.advice else not_seen(KEYS, what_happened(error)), None
    return check, None


def _finite(examined: Examined) -> Check:
    play = examined.play
    for what, flags in (("an observation", play.bad_obs), ("a reward", play.bad_reward)):
        if flags.any():
            return failed(
                FINITE, f"{what} is NaN or infinite, {place(flags)}: look for 0/0, log(0) and overflows there"
            )
    return passed(FINITE, f"in {play.age.size} random steps")


def _deterministic(examined: Examined) -> Check:
    advice = "draw everything random from the key, and keep what changes in the state"
    first, second = _programs(examined), _programs(examined)
    for name, program in first.items():
        if not same_program(program, second[name]):
            return failed(
                DETERMINISTIC,
                f"{name} is another program each time that it is traced, as with np.random or a counter: {advice}",
            )
    same = jax.tree.map(partial(np.array_equal, equal_nan=True), examined.again(), examined.play)
    if not all(jax.tree.leaves(same)):
        return failed(DETERMINISTIC, f"two runs with the same key differ: {advice}")
    return passed(DETERMINISTIC)


def _programs(examined: Examined) -> dict[str, Program]:
    """Trace reset and step, as (key) and (key or noise, state, action)."""
    env, count, key = examined.env, examined.num_envs, key_aval()
    if isinstance(env, Env):
        state, _ = jax.eval_shape(env.reset, key)
        action = jax.eval_shape(partial(sample_space, env.action_space), key)
        return {"reset": traced(env.reset, key), "step": traced(env.step, key, state, action)}
    state, _ = jax.eval_shape(lambda key: env.reset(key, count), key)
    keys = jax.eval_shape(lambda key: jax.random.split(key, count), key)
    action = jax.eval_shape(jax.vmap(partial(sample_space, env.action_space)), keys)
    noise = jax.eval_shape(lambda key: jax.tree.map(lambda x: x[0], env.noise(key, 1, count)), key)
    reset = traced(lambda key: env.reset(key, count), key)
    return {"reset": reset, "step": traced(env.step, noise, state, action)}


def _noise(examined: Examined) -> Check:
    programs = _programs(examined)
    if draws_random_numbers(programs["reset"]) and not uses_input(programs["reset"], 0):
        return failed(NOISE, "reset draws random numbers, but not from its key: all episodes begin alike; use the key")
    step = programs["step"]
    inputs = 1 if isinstance(examined.env, Env) else _num_noise_leaves(examined)
    if draws_random_numbers(step) and not any(uses_input(step, i) for i in range(inputs)):
        if not isinstance(examined.env, Env) or not _key_in_state_moves(examined.env):
            advice = "use the key of step, or split a key in the state and keep one part"
            return failed(
                NOISE, f"step draws random numbers, but not from its key: the noise of all steps is the same; {advice}"
            )
        return passed(NOISE, "from a key in the state")
    if not draws_random_numbers(step) and not draws_random_numbers(programs["reset"]):
        return passed(NOISE, "the environment draws no random numbers")
    first = np.asarray(examined.play.first)
    if draws_random_numbers(programs["reset"]) and first.size > 1 and (first == first[0]).all():
        return not_seen(NOISE, f"reset draws random numbers, but {first.size} first states are the same")
    return passed(NOISE)


def _num_noise_leaves(examined: Examined) -> int:
    env, count = examined.env, examined.num_envs
    assert isinstance(env, VecEnv)
    return len(jax.tree.leaves(jax.eval_shape(lambda key: env.noise(key, 1, count), key_aval())))


def _key_in_state_moves(env: Env) -> bool:
    """Return whether the state holds keys, typed or raw, and a step changes one of them."""
    keys = jax.random.split(jax.random.key(0), 3)
    state, _ = env.reset(keys[0])
    after, _ = env.step(keys[1], state, sample_space(env.action_space, keys[2]))
    pairs = zip(_key_data(state), _key_data(after), strict=True)
    return any((x != y).any() for x, y in pairs)


def _key_data(state: EnvState) -> list[np.ndarray]:
    """Return the data of all leaves of a state that are keys, or look like a raw key."""
    found = []
    for x in jax.tree.leaves(state):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            found.append(np.asarray(jax.random.key_data(x)))
        elif x.dtype == np.uint32 and x.shape[-1:] == (2,):
            found.append(np.asarray(x))
    return found


def _termination(examined: Examined) -> Check:
    play = examined.play
    if not play.terminated.any():
        return not_seen(
            TERMINATION,
            f"no episode terminated in {play.age.size} random steps: fine for a task without an end; otherwise return "
            "terminated where the task is over",
        )
    lengths = play.age[play.terminated]
    if len(lengths) >= MIN_EPISODES and lengths[0] > 1 and (lengths == lengths[0]).all() and not play.truncated.any():
        remark = f"all after exactly {lengths[0]} steps; if that is a time limit, return truncated instead"
        return passed(TERMINATION, remark)
    return passed(TERMINATION, f"{int(play.terminated.sum())} times in {play.age.size} random steps")


def _truncation(examined: Examined) -> Check:
    play, early = examined.play, _early_truncations(examined)
    if early.any():
        return failed(
            TRUNCATION,
            f"an episode was truncated sooner than truncation_gap = {examined.env.truncation_gap} allows, "
            f"{place(early)}: state the least number of steps to a truncation, or 1 if there is none",
        )
    if not play.truncated.any():
        return not_seen(
            TRUNCATION,
            f"no episode was truncated in {play.age.size} random steps, the longest of {int(play.age.max())}: fine "
            "without a time limit or with a longer one; envs.wrappers.time_limit adds one",
        )
    return passed(TRUNCATION, f"{int(play.truncated.sum())} times in {play.age.size} random steps")


def _early_truncations(examined: Examined) -> np.ndarray:
    """Return the truncations that `truncation_gap` excludes, bool [T, N].

    An Env counts the steps of the episode, a VecEnv those since the last truncation.
    """
    env, play = examined.env, examined.play
    truncated = np.asarray(play.truncated & ~play.terminated)
    if isinstance(env, Env):
        return truncated & (np.asarray(play.age) < env.truncation_gap)
    early = np.zeros_like(truncated)
    since = np.full(truncated.shape[1], env.truncation_gap)
    for t, now in enumerate(truncated):
        since += 1
        early[t] = now & (since < env.truncation_gap)
        since[now] = 0
    return early


def _distinguished(examined: Examined) -> Check:
    play = examined.play
    ends = play.terminated | play.truncated
    if not ends.any():
        return not_seen(DISTINGUISHED, f"no episode ended in {play.age.size} random steps")
    if (play.terminated == play.truncated).all():
        return failed(
            DISTINGUISHED,
            "every end sets both terminated and truncated: set truncated alone where only time ran out, and terminated "
            "where the task is over; otherwise the value after a time limit counts as 0",
        )
    return passed(DISTINGUISHED)


def _masks(examined: Examined) -> Check:
    mask = action_mask(examined.env.observation_space)
    if mask is None:
        return passed(MASKS, "there are none")
    check_mask(examined.env.action_space, mask)
    if examined.play.stuck.any():
        return failed(
            MASKS,
            f"a state allows no action, {place(examined.play.stuck)}: such a state must end the episode, or "
            "envs.wrappers.always_some_action(env) allows every action in it",
        )
    return passed(MASKS)
