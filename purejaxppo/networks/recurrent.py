"""Memory: GRU, LSTM and a diagonal linear recurrence over blocks of time, with resets inside of the block.

Each is a linen module (carry [N, ...], x [T, N, D], reset [T, N]) -> (carry [N, ...], features [T, N, H]): where
reset[t] is true the carry is emptied before x[t] is read. What does not depend on the carry is one matrix product over
the whole block. Matrix products are in `dtype`, the carry is always float32: rounding would add up in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.networks.dense import Dense
from purejaxppo.networks.initializers import orthogonal

Array = jax.Array


def orthogonal_gates(num_gates: int) -> Callable[..., Array]:
    """An initialiser of `num_gates` orthogonal matrices side by side: [D, num_gates * H]."""

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        one, gate = orthogonal(1.0), (shape[0], shape[1] // num_gates)
        return jnp.concatenate([one(k, gate, dtype) for k in jax.random.split(key, num_gates)], axis=1)

    return init


def _on_rows(layer: Callable[[Array], Array], x: Array) -> Array:
    """`layer` over [T, N, D] as one block of rows, which is twice as fast on a CPU."""
    y = layer(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _times(h: Array, kernel: Array, dtype: Any) -> Array:
    """Matrix product in `dtype`, float32 out."""
    return jnp.matmul(h.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


class GRU(nn.Module):
    """Gated recurrent unit: r, z = σ(W x + U h); n = tanh(W x + r ∘ (U h + b)); h ← (1 - z) ∘ n + z ∘ h."""

    size: int
    dtype: Any = jnp.float32

    def initial_rnn_state(self, num_envs: int) -> Array:
        """h [N, H], zero."""
        return jnp.zeros((num_envs, self.size), jnp.float32)

    @nn.compact
    def __call__(self, rnn_state: Array, x: Array, is_first: Array) -> tuple[Array, Array]:
        """See the module's docstring."""
        gates = _on_rows(Dense(3 * self.size, kernel_init=orthogonal_gates(3), dtype=self.dtype, name="input"), x)
        kernel = self.param("recurrent", orthogonal_gates(3), (self.size, 3 * self.size))
        bias = self.param("candidate_bias", nn.initializers.zeros, (1, self.size))

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            h = jnp.where(inputs[1][:, None], 0.0, h)
            x_r, x_z, x_n = jnp.split(inputs[0], 3, axis=-1)
            h_r, h_z, h_n = jnp.split(_times(h, kernel, self.dtype), 3, axis=-1)
            r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
            n = jnp.tanh(x_n + r * (h_n + bias))
            h = n + z * (h - n)
            return h, h

        return jax.lax.scan(step, rnn_state, (gates.astype(jnp.float32), is_first))


class LSTM(nn.Module):
    """Long short-term memory: i, f, g, o = W x + U h; c ← σ(f) ∘ c + σ(i) ∘ tanh g; h ← σ(o) ∘ tanh c.

    The bias of f starts at 1: a cell that remembers.
    """

    size: int
    dtype: Any = jnp.float32

    def initial_rnn_state(self, num_envs: int) -> tuple[Array, Array]:
        """(c, h), [N, H] each, zero."""
        zeros = jnp.zeros((num_envs, self.size), jnp.float32)
        return zeros, zeros

    @nn.compact
    def __call__(self, rnn_state: tuple[Array, Array], x: Array, is_first: Array) -> tuple[tuple[Array, Array], Array]:
        """See the module's docstring."""

        def bias_init(key: Array, shape: tuple[int], dtype: Any = jnp.float32) -> Array:
            return jnp.zeros(shape, dtype).at[self.size : 2 * self.size].set(1)

        dense = {"kernel_init": orthogonal_gates(4), "bias_init": bias_init, "dtype": self.dtype}
        gates = _on_rows(Dense(4 * self.size, **dense, name="input"), x)
        kernel = self.param("recurrent", orthogonal_gates(4), (self.size, 4 * self.size))

        def step(rnn_state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            c, h = (jnp.where(inputs[1][:, None], 0.0, x) for x in rnn_state)
            i, f, g, o = jnp.split(inputs[0] + _times(h, kernel, self.dtype), 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        return jax.lax.scan(step, rnn_state, (gates.astype(jnp.float32), is_first))


class LRU(nn.Module):
    """Linear recurrent unit: h ← λ ∘ h + √(1 - |λ|²) ∘ B x with complex λ = exp(-exp ν + iθ), then gelu(C (h, x)).

    Diagonal and linear in h, so that a block of time is an associative scan of depth log T instead of T steps. |λ| < 1
    for every ν. A reset is λ = 0 at that step.
    """

    size: int
    dtype: Any = jnp.float32
    min_radius: float = 0.5  # |λ| starts uniform over this ring of the complex plane, its phase over [0, max_phase]
    max_radius: float = 0.999
    max_phase: float = math.pi / 4

    def initial_rnn_state(self, num_envs: int) -> Array:
        """Real and imaginary part of h, side by side: [N, 2H], zero."""
        return jnp.zeros((num_envs, 2 * self.size), jnp.float32)

    def _decay(self) -> tuple[Array, Array]:
        """λ [H] complex and √(1 - |λ|²) [H]."""

        def nu_init(key: Array, shape: tuple[int]) -> Array:
            low, high = self.min_radius**2, self.max_radius**2
            return jnp.log(-0.5 * jnp.log(jax.random.uniform(key, shape, minval=low, maxval=high)))

        def theta_init(key: Array, shape: tuple[int]) -> Array:
            return jax.random.uniform(key, shape, maxval=self.max_phase)

        log_radius = -jnp.exp(self.param("nu", nu_init, (self.size,)))
        theta = self.param("theta", theta_init, (self.size,))
        radius = jnp.exp(log_radius)
        return jax.lax.complex(radius * jnp.cos(theta), radius * jnp.sin(theta)), jnp.sqrt(-jnp.expm1(2 * log_radius))

    @nn.compact
    def __call__(self, rnn_state: Array, x: Array, is_first: Array) -> tuple[Array, Array]:
        """See the module's docstring."""
        decay, gain = self._decay()
        dense = {"kernel_init": orthogonal_gates(2), "use_bias": False, "dtype": self.dtype}
        drive = _on_rows(Dense(2 * self.size, **dense, name="input"), x).astype(jnp.float32)
        drive = _complex(drive * jnp.broadcast_to(jnp.tile(gain, 2), drive.shape))
        shape = drive.shape
        decay = jnp.where(is_first[..., None], jnp.zeros_like(decay), jnp.broadcast_to(decay, shape))

        def then(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
            return second[0] * first[0], second[0] * first[1] + second[1]

        # The maps h -> decay * h + drive, composed up to and including each step, and applied to the carry.
        decay, drive = jax.lax.associative_scan(then, (decay, drive))
        h = decay * jnp.broadcast_to(_complex(rnn_state), shape) + drive
        states = jnp.concatenate([h.real, h.imag], axis=-1)
        # Read in float32 whatever the compute dtype: a scan and single steps differ by rounding, which 16 bits magnify.
        read = jnp.concatenate([states, x.astype(jnp.float32)], axis=-1)
        output = Dense(self.size, kernel_init=orthogonal(math.sqrt(2)), dtype=jnp.float32, name="output")
        y = _on_rows(output, read)
        return states[-1], nn.gelu(y)


def _complex(x: Array) -> Array:
    """[..., 2H] -> complex [..., H]."""
    return jax.lax.complex(*jnp.split(x, 2, axis=-1))


CELLS: dict[str, Callable[..., Any]] = {"gru": GRU, "lstm": LSTM, "lru": LRU}
