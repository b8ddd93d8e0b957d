"""Check and convert what users pass to the public functions: keys, counts, hyperparameters, states and policies."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from purejaxppo.config.checks import check_settings
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.types import Algorithm

ONE_KEY = "a key (jax.random.key(0)), a raw key (jax.random.PRNGKey(0)) or an integer seed"


def as_key(key: Any, caller: str) -> Array:
    """Return one typed key.

    Args:
        key: a typed key, a raw uint32 key, or an integer seed in [0, 2³²).
        caller: name of the public function, for the message.

    Raises:
        TypeError: `key` is none of these.
        ValueError: `key` is an array of several keys, or a seed out of range.
    """
    typed = _typed(key)
    if typed is None:
        raise TypeError(f"{caller} takes {ONE_KEY}, not {describe(key)}")
    if typed.shape:
        raise ValueError(
            f"{caller} takes one key, not {_several(typed)}; for several seeds use sweep, or jax.vmap over the keys"
        )
    return typed


def as_keys(keys: Any, caller: str) -> Array:
    """Return typed keys [S], one per seed.

    Args:
        keys: typed keys [S], raw uint32 keys [S, 2], integer seeds [S], or a list of anything `as_key` takes.
        caller: name of the public function, for the message.

    Raises:
        TypeError: `keys` is none of these.
        ValueError: `keys` is a single key, is empty, or has more than one axis.
    """
    wanted = f"{caller} takes one key per seed, such as jax.random.split(jax.random.key(0), 8) or a list of seeds"
    if isinstance(keys, list | tuple | range):
        if not len(keys):
            raise ValueError(f"{wanted}; it is empty")
        return jnp.stack([as_key(key, f"every entry of the keys of {caller}") for key in keys])
    typed = _typed(keys)
    if typed is None:
        raise TypeError(f"{wanted}, not {describe(keys)}")
    if typed.ndim != 1:
        raise ValueError(f"{wanted}, not {_several(typed) if typed.shape else 'a single key'}")
    if not typed.size:
        raise ValueError(f"{wanted}; it is empty")
    return typed


def _typed(key: Any) -> Any:
    """Return typed keys of the leading shape of `key`, or None if `key` holds no keys and no seeds."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if not 0 <= key < 2**32:
            raise ValueError(f"seed = {key}: must lie between 0 and {2**32 - 1}")
        return jax.random.key(np.uint32(key))
    if not isinstance(key, jax.Array | np.ndarray):
        return None
    if is_key(key):
        return key
    raw = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    if key.dtype == raw.dtype and key.shape[-1:] == raw.shape:
        return jax.random.wrap_key_data(jnp.asarray(key))
    if not jnp.issubdtype(key.dtype, jnp.integer) or key.ndim > 1:
        return None
    return jax.vmap(jax.random.key)(jnp.asarray(key)) if key.ndim else jax.random.key(key)


def is_key(x: Any) -> bool:
    """Return whether `x` is an array of typed keys."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _several(keys: Array) -> str:
    return f"an array of keys of shape {keys.shape}"


def as_count(value: Any, name: str, low: int = 1) -> int:
    """Return an integer argument as a Python integer of at least `low`.

    Raises:
        TypeError: not an integer, or not known while tracing.
        ValueError: below `low`.
    """
    if isinstance(value, Tracer):
        raise TypeError(f"{name} must be a Python integer, because it decides what is compiled, not a traced array")
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        hint = f"; write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"{name} = {value!r}: expected an integer, not {describe(value)}{hint}") from None
    if count < low:
        raise ValueError(f"{name} = {count}: must be at least {low}")
    return count


def as_traced(hyperparams: Hyperparams | None) -> Hyperparams:
    """Return hyperparameters as float32 arrays, so that Python numbers and arrays share one program.

    Raises:
        TypeError: something other than Hyperparams.
        ConfigError: a value out of its range.
    """
    h = Hyperparams() if hyperparams is None else hyperparams
    if not isinstance(h, Hyperparams):
        raise TypeError(f"hyperparams must be a Hyperparams (traced numbers), not {describe(h)}")
    check_settings(Config(), hyperparams=h)
    return Hyperparams(*(jnp.asarray(x, jnp.float32) for x in h))


def as_scalars(hyperparams: Hyperparams | None, caller: str) -> Hyperparams:
    """Return the hyperparameters of one run as float32 scalars.

    Raises:
        TypeError, ConfigError: as `as_traced`.
        ValueError: a field is an array with axes.
    """
    h = as_traced(hyperparams)
    shapes = {name: x.shape for name, x in h._asdict().items() if x.shape}
    if shapes:
        raise ValueError(f"{caller} runs one setting, but hyperparams has arrays {shapes}; use sweep for several")
    return h


def check_algorithm(algo: Any, caller: str) -> None:
    """Raise TypeError if `algo` is not an Algorithm."""
    if not isinstance(algo, Algorithm):
        raise TypeError(f"{caller} takes the Algorithm that make_ppo returns, not {describe(algo)}")


def check_state(state: Any, caller: str) -> None:
    """Raise TypeError if training cannot continue from `state`, and say what to write instead."""
    if hasattr(state, "num_updates") and hasattr(state, "params"):
        return
    if hasattr(state, "params") and hasattr(state, "obs_moments"):
        raise TypeError(
            f"{caller} continues from a TrainState; a policy has no optimizer state and no environments. Write "
            "init_state(algo, key)._replace(params=policy.params, obs_moments=policy.obs_moments)"
        )
    hint = _pair_hint(state)
    if not hint and not isinstance(state, dict):
        hint = "; to start from scratch write init_state(algo, key)"
    raise TypeError(f"{caller} continues from a TrainState, not {describe(state)}{hint}")


def check_policy(state: Any, caller: str) -> None:
    """Raise TypeError if `state` lacks what acting needs, and say what to write instead."""
    if hasattr(state, "params") and hasattr(state, "obs_moments"):
        return
    hint = _pair_hint(state)
    if isinstance(state, dict):
        hint = "; for parameters alone write state._replace(params=params)"
    elif isinstance(state, str) or hasattr(state, "__fspath__"):
        hint = "; read the file with load(path)"
    raise TypeError(f"{caller} takes a TrainState or a Policy, not {describe(state)}{hint}")


def _pair_hint(state: Any) -> str:
    """Return a hint for the result of `train`, a pair of state and metrics."""
    return "; pass the first element of the pair" if isinstance(state, tuple) and len(state) == 2 else ""


def batch_shape(state: Any) -> tuple[int, ...]:
    """Return the axes that a TrainState or Policy has in front: () of one run, [S] under vmap, [H, S] of a sweep."""
    return jnp.shape(state.obs_moments.count)


def describe(x: Any) -> str:
    """Describe an argument for an error message: its type, and shape and dtype of an array."""
    if isinstance(x, jax.Array | np.ndarray):
        kind = "a key" if is_key(x) and not x.shape else f"an array {x.dtype}{list(x.shape)}"
        return kind
    if x is None:
        return "None"
    return f"{'an' if type(x).__name__[0].lower() in 'aeiou' else 'a'} {type(x).__name__}"
