"""Recurrent cells over blocks of time: GRU, LSTM and a linear recurrent unit.

Each is a linen module (rnn_state [N, ...], x [T, N, D], is_first [T, N]) -> (rnn_state [N, ...], features [T, N, H]).
If is_first[t], the recurrent state is set to zero before x[t] is read. Whatever does not depend on the recurrent state
is one matrix product over the whole block. Matrix products are in `dtype`; the recurrent state is always float32, since
rounding errors accumulate in it. Parameters are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from purejaxppo.networks.cpu_layers import Dense
from purejaxppo.networks.initializers import DrawFn, draw_orthonormal, orthogonal, orthogonal_gates

Array = jax.Array


def _on_rows(layer: Callable[[Array], Array], x: Array) -> Array:
    """Apply `layer` to [T, N, D] as rows [T * N, D], which is twice as fast on a CPU."""
    y = layer(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _matmul(h: Array, kernel: Array, dtype: DTypeLike) -> Array:
    """Multiply in `dtype` with a float32 result."""
    return jnp.matmul(h.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

    r, z = σ(W x + U h + b);  n = tanh(W x + b + r ∘ (U h + c));  h ← (1 − z) ∘ n + z ∘ h

    The reset gate r acts on U h + c, as in cuDNN, PyTorch and flax.
    """

    size: int
    dtype: DTypeLike = jnp.float32
    draw: DrawFn = draw_orthonormal  # source of the initial kernels

    def initial_rnn_state(self, num_envs: int) -> Array:
        """Return h [N, H], zero."""
        return jnp.zeros((num_envs, self.size), jnp.float32)

    @nn.compact
    def __call__(self, rnn_state: Array, x: Array, is_first: Array) -> tuple[Array, Array]:
        """Run the cell over a block of time.

        Args:
            rnn_state: h [N, H] before the first step.
            x: inputs [T, N, D].
            is_first: bool [T, N]; h is set to zero before such a step.

        Returns:
            h [N, H] after the last step, and h after every step [T, N, H].
        """
        kernel_init = orthogonal_gates(3, self.draw)
        gates = _on_rows(Dense(3 * self.size, kernel_init=kernel_init, dtype=self.dtype, name="input"), x)
        kernel = self.param("recurrent", kernel_init, (self.size, 3 * self.size), jnp.float32)
        bias = self.param("candidate_bias", nn.initializers.zeros, (1, self.size), jnp.float32)

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, is_first = inputs
            h = jnp.where(is_first[:, None], 0.0, h)
            x_r, x_z, x_n = jnp.split(gates, 3, axis=-1)
            h_r, h_z, h_n = jnp.split(_matmul(h, kernel, self.dtype), 3, axis=-1)
            r = jax.nn.sigmoid(x_r + h_r)
            z = jax.nn.sigmoid(x_z + h_z)
            n = jnp.tanh(x_n + r * (h_n + bias))
            h = n + z * (h - n)
            return h, h

        return jax.lax.scan(step, rnn_state, (gates.astype(jnp.float32), is_first))


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).

    i, f, g, o = W x + U h + b;  c ← σ(f) ∘ c + σ(i) ∘ tanh g;  h ← σ(o) ∘ tanh c

    The bias of f starts at 1, so that the initial cell remembers (Jozefowicz et al. 2015).
    """

    size: int
    dtype: DTypeLike = jnp.float32
    draw: DrawFn = draw_orthonormal  # source of the initial kernels

    def initial_rnn_state(self, num_envs: int) -> tuple[Array, Array]:
        """Return (c, h), [N, H] each, zero."""
        zeros = jnp.zeros((num_envs, self.size), jnp.float32)
        return zeros, zeros

    @nn.compact
    def __call__(self, rnn_state: tuple[Array, Array], x: Array, is_first: Array) -> tuple[tuple[Array, Array], Array]:
        """Run the cell over a block of time.

        Args:
            rnn_state: (c, h), [N, H] each, before the first step.
            x: inputs [T, N, D].
            is_first: bool [T, N]; c and h are set to zero before such a step.

        Returns:
            (c, h) after the last step, and h after every step [T, N, H].
        """

        def bias_init(key: Array, shape: tuple[int], dtype: DTypeLike = jnp.float32) -> Array:
            return jnp.zeros(shape, dtype).at[self.size : 2 * self.size].set(1)

        kernel_init = orthogonal_gates(4, self.draw)
        dense = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": self.dtype}
        gates = _on_rows(Dense(4 * self.size, **dense, name="input"), x)
        kernel = self.param("recurrent", kernel_init, (self.size, 4 * self.size), jnp.float32)

        def step(rnn_state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            gates, is_first = inputs
            c, h = (jnp.where(is_first[:, None], 0.0, x) for x in rnn_state)
            i, f, g, o = jnp.split(gates + _matmul(h, kernel, self.dtype), 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        return jax.lax.scan(step, rnn_state, (gates.astype(jnp.float32), is_first))


class LRU(nn.Module):
    """Linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349).

    h ← λ ∘ h + √(1 − |λ|²) ∘ B x with complex λ = exp(−exp ν + iθ);  y = gelu(C (h, x) + b)

    The recurrence is diagonal and linear in h, so a block of time is an associative scan of depth log T instead of T
    steps. |λ| < 1 for every ν. A step with is_first has λ = 0.
    """

    size: int
    dtype: DTypeLike = jnp.float32
    draw: DrawFn = draw_orthonormal  # source of the initial kernels
    min_radius: float = 0.5  # |λ| starts in this ring of the complex plane, uniform over its area
    max_radius: float = 0.999
    max_phase: float = math.pi / 4  # the phase of λ starts uniform over [0, max_phase]

    def initial_rnn_state(self, num_envs: int) -> Array:
        """Return h [N, 2H], zero: the real parts, then the imaginary parts."""
        return jnp.zeros((num_envs, 2 * self.size), jnp.float32)

    def _decay(self) -> tuple[Array, Array]:
        """Return λ [H], complex, and √(1 − |λ|²) [H]."""

        def nu_init(key: Array, shape: tuple[int]) -> Array:
            low, high = self.min_radius**2, self.max_radius**2
            squared_radius = jax.random.uniform(key, shape, jnp.float32, minval=low, maxval=high)
            return jnp.log(-0.5 * jnp.log(squared_radius))

        def theta_init(key: Array, shape: tuple[int]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, maxval=self.max_phase)

        log_radius = -jnp.exp(self.param("nu", nu_init, (self.size,)))
        theta = self.param("theta", theta_init, (self.size,))
        radius = jnp.exp(log_radius)
        return jax.lax.complex(radius * jnp.cos(theta), radius * jnp.sin(theta)), jnp.sqrt(-jnp.expm1(2 * log_radius))

    @nn.compact
    def __call__(self, rnn_state: Array, x: Array, is_first: Array) -> tuple[Array, Array]:
        """Run the unit over a block of time.

        Args:
            rnn_state: h [N, 2H] before the first step.
            x: inputs [T, N, D].
            is_first: bool [T, N]; h is set to zero before such a step.

        Returns:
            h [N, 2H] after the last step, and y of every step [T, N, H].
        """
        decay, gain = self._decay()
        dense = {"kernel_init": orthogonal_gates(2, self.draw), "use_bias": False, "dtype": self.dtype}
        drive = _on_rows(Dense(2 * self.size, **dense, name="input"), x).astype(jnp.float32)
        drive = _to_complex(drive * jnp.broadcast_to(jnp.tile(gain, 2), drive.shape))
        shape = drive.shape
        decay = jnp.where(is_first[..., None], jnp.zeros_like(decay), jnp.broadcast_to(decay, shape))

        def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
            return second[0] * first[0], second[0] * first[1] + second[1]

        # Compose the maps h -> decay * h + drive up to and including each step, then apply them to the first state.
        decay, drive = jax.lax.associative_scan(compose, (decay, drive))
        h = decay * jnp.broadcast_to(_to_complex(rnn_state), shape) + drive
        states = jnp.concatenate([h.real, h.imag], axis=-1)
        # float32 whatever `dtype`: a scan and single steps differ by rounding errors, which bfloat16 would magnify.
        features = jnp.concatenate([states, x.astype(jnp.float32)], axis=-1)
        kernel_init = orthogonal(math.sqrt(2), self.draw)
        y = _on_rows(Dense(self.size, kernel_init=kernel_init, dtype=jnp.float32, name="output"), features)
        return states[-1], nn.gelu(y)


def _to_complex(x: Array) -> Array:
    """[..., 2H], real parts before imaginary parts -> complex [..., H]."""
    return jax.lax.complex(*jnp.split(x, 2, axis=-1))


CELLS: dict[str, type[GRU | LSTM | LRU]] = {"gru": GRU, "lstm": LSTM, "lru": LRU}
