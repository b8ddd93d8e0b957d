"""Action distributions: named tuples of parameters with exact log-probability, entropy (12) and KL(old ‖ new).

Every distribution has the same methods (leading axes `[...]` are those of its parameters):

    noise(key, shape=())  → random arrays [*shape, ...], all that sampling needs; reads shapes only
    sample_from(noise)    → action, deterministic
    sample(key)           = sample_from(noise(key))
    mode()                → the greedy action
    to_env(action)        → the action as the environment takes it; all else is of what was drawn
    log_prob(action)      → [...]  in nats
    entropy()             → [...]  in nats, (12)
    kl(new)               → [...]  in nats, KL(self ‖ new): self is the OLD policy

`noise` and `sample_from` are apart so that the noise of a whole rollout is one call before its scan. As `noise` reads
nothing but shapes, the leaves may be `jax.ShapeDtypeStruct`. Parameters are float32.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

# A masked logit counts as this one: exp of it is exactly 0, and 0 · log 0 is 0 · (-1e9) = 0, never 0 · (-inf) = NaN.
MASKED_LOGIT = -1e9

# Uniform floats are multiples of 2⁻²³: half a step puts them on the midpoints, symmetric about 1/2 and never 0 or 1.
_HALF_STEP = 2.0**-24

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# E[f(z)], z ~ N(0, 1) ≈ Σᵢ wᵢ f(zᵢ): the trapezoid rule, which converges as fast as Gauss-Hermite here and, nodes being
# evenly spaced, is 10 times as accurate where σ > 1 bends tanh sharply between two nodes.
_NODES = [-5.0 + 10.0 * i / 23 for i in range(24)]

_WEIGHTS = [math.exp(-0.5 * z * z) for z in _NODES]

_WEIGHTS = [weight / math.fsum(_WEIGHTS) for weight in _WEIGHTS]


def _by_action(logits: jax.Array) -> jax.Array:
    """Logits [..., K] -> [K, ...], a mask of -inf as a finite number; NaN stays NaN.

    Everything below works on this form: what is over actions is over the first axis, so that all other axes are one
    vectorised loop. Over a last axis of two or three actions a CPU takes ten times as long.
    """
    logits = jnp.moveaxis(logits, -1, 0)
    return jnp.where(logits < MASKED_LOGIT, MASKED_LOGIT, logits)  # maximum() halves the gradient at equality


@jax.custom_jvp
def _normalized(logits: jax.Array) -> jax.Array:
    shifted = logits - jnp.max(logits, axis=0)[None]
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=0))[None]


@_normalized.defjvp
def _normalized_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    log_probs, (change,) = _normalized(*primals), tangents  # d log π(a) = dz_a - Σ_b π(b) dz_b
    return log_probs, change - jnp.sum(jnp.exp(log_probs) * change, axis=0)[None]


def _log_softmax(logits: jax.Array) -> jax.Array:
    """Log-probabilities, action by action: [..., K] -> [K, ...], finite for every finite or -inf logit."""
    return _normalized(_by_action(logits))


def _indices(by_action: jax.Array) -> jax.Array:
    """The number of each action, int32 [K, ...]."""
    return jax.lax.broadcasted_iota(jnp.int32, by_action.shape, 0)


def _total(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms)


def _running_sums(weights: jax.Array) -> jax.Array:
    """Sums over the first axis up to and including each element [K, ...]."""
    if len(weights) > 20:
        return jnp.cumsum(weights, axis=0)
    # Additions one after the other fuse with what surrounds them; a scan primitive is kernels of its own.
    return jnp.stack(list(itertools.accumulate(weights)))


def _squash_log_det(x: jax.Array, half: jax.Array) -> jax.Array:
    """log |d/dx half·tanh x| = log half + 2 (log 2 - x - softplus(-2x)), exact where 1 - tanh² x underflows."""
    return jnp.log(half) + 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))


class Categorical(NamedTuple):
    """Discrete distribution π(a) = softmax(logits)ₐ over K actions; a logit of -inf (or ≤ -1e9) masks its action."""

    logits: jax.Array  # [..., K]

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """One uniform number in (0, 1) per action: [*shape, ...]."""
        return jax.random.uniform(key, (*shape, *self.logits.shape[:-1]), jnp.float32) + _HALF_STEP

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """Inverse CDF: the first a with u < Σ_{i ≤ a} π(i), int32 [...]; never a masked action, for any u in [0, 1]."""
        logits = _by_action(self.logits)
        weights = jnp.exp(logits - jnp.max(logits, axis=0)[None])
        cumulative, index = _running_sums(weights), _indices(logits)
        # Rounding may leave u·total at or above the last sum, and two sums around a masked action unequal: choose
        # among the actions that have a weight, and the last of these where none is found.
        possible = weights > 0.0
        last = jnp.max(jnp.where(possible, index, 0), axis=0)[None]
        reached = possible & ((noise * cumulative[-1])[None] < cumulative)
        return jnp.min(jnp.where(reached, index, last), axis=0)

    def sample(self, key: jax.Array) -> jax.Array:
        """A random action, int32 [...]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """The most probable action, int32 [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def to_env(self, action: jax.Array) -> jax.Array:
        """The action as the environment takes it: as it is."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(a) [...]; about -1e9 (not -inf) for a masked action. `action` is an integer array [...]."""
        log_probs = _log_softmax(self.logits)
        # A sum over a comparison, not a gather: its gradient is element-wise, a gather's is a scatter.
        chosen = _indices(log_probs) == action.astype(jnp.int32)[None]
        return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=0)

    def entropy(self) -> jax.Array:
        """H(π) = -Σₐ π(a) log π(a) [...] (12), with 0 log 0 = 0."""
        log_probs = _log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=0)

    def kl(self, new: "Categorical") -> jax.Array:
        """KL(self ‖ new) = Σₐ π_old(a) (log π_old(a) - log π_new(a)) [...], with 0 log 0 = 0; exactly 0 for equals."""
        old_log_probs, new_log_probs = _log_softmax(self.logits), _log_softmax(new.logits)
        return jnp.sum(jnp.exp(old_log_probs) * (old_log_probs - new_log_probs), axis=0)


class MultiCategorical(NamedTuple):
    """n independent categorical actions of K₁, …, Kₙ choices each; log-probability, entropy and KL are sums."""

    logits: tuple[jax.Array, ...]  # n arrays [..., Kᵢ]

    def _parts(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits]

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """One uniform number in (0, 1) per action component: [*shape, ..., n]."""
        sizes = (*shape, *self.logits[0].shape[:-1], len(self.logits))
        return jax.random.uniform(key, sizes, jnp.float32) + _HALF_STEP

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """Inverse CDF of every component, int32 [..., n]."""
        return jnp.stack([part.sample_from(noise[..., i]) for i, part in enumerate(self._parts())], axis=-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """A random action, int32 [..., n]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """The most probable choice of every component, int32 [..., n]."""
        return jnp.stack([part.mode() for part in self._parts()], axis=-1)

    def to_env(self, action: jax.Array) -> jax.Array:
        """The action as the environment takes it: as it is."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Σᵢ log πᵢ(aᵢ) [...]; `action` is an integer array [..., n]."""
        return _total(part.log_prob(action[..., i]) for i, part in enumerate(self._parts()))

    def entropy(self) -> jax.Array:
        """Σᵢ H(πᵢ) [...] (12)."""
        return _total(part.entropy() for part in self._parts())

    def kl(self, new: "MultiCategorical") -> jax.Array:
        """KL(self ‖ new) = Σᵢ KL(π_oldᵢ ‖ π_newᵢ) [...]."""
        pairs = zip(self._parts(), new._parts(), strict=True)
        return _total(old.kl(other) for old, other in pairs)


class DiagonalGaussian(NamedTuple):
    """Normal distribution N(mean, diag(σ²)), σ = exp(log_std), over A-dimensional actions."""

    mean: jax.Array  # [..., A]
    log_std: jax.Array  # [..., A]

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Standard normal numbers [*shape, ..., A]."""
        return jax.random.normal(key, (*shape, *self.mean.shape), jnp.float32)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """mean + σ z [..., A]."""
        return self.mean + jnp.exp(self.log_std) * noise

    def sample(self, key: jax.Array) -> jax.Array:
        """A random action [..., A]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """The mean [..., A]."""
        return self.mean

    def to_env(self, action: jax.Array) -> jax.Array:
        """The action as the environment takes it: as it is."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(a) = Σⱼ -((aⱼ - meanⱼ)/σⱼ)²/2 - log σⱼ - log √(2π) [...]."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(z) - self.log_std - _LOG_SQRT_2PI, axis=-1)

    def entropy(self) -> jax.Array:
        """H = Σⱼ log σⱼ + log √(2πe) [...] (12), differential entropy: may be negative."""
        return jnp.sum(self.log_std + (0.5 + _LOG_SQRT_2PI), axis=-1)

    def kl(self, new: "DiagonalGaussian") -> jax.Array:
        """KL(self ‖ new) = Σⱼ log(σ'ⱼ/σⱼ) + (σⱼ² + (meanⱼ - mean'ⱼ)²) / (2σ'ⱼ²) - 1/2 [...]; exactly 0 for equals."""
        # With d = log(σ/σ') this is (e²ᵈ - 1 - 2d)/2 + (Δmean/σ')²/2: nothing of order 1 cancels when d is small.
        twice_d = 2.0 * (self.log_std - new.log_std)
        z = (self.mean - new.mean) * jnp.exp(-new.log_std)
        return 0.5 * jnp.sum(jnp.expm1(twice_d) - twice_d + jnp.square(z), axis=-1)


class TanhGaussian(NamedTuple):
    """A diagonal Gaussian squashed into the box (low, high): a = centre + half · tanh x, x ~ N(mean, diag(σ²)).

    What is drawn, and what the probability is asked of, is x; the environment gets `to_env(x)`. In float32 no x could
    be found again from an a near a bound.
    """

    mean: jax.Array  # [..., A]  of x, before the squashing
    log_std: jax.Array  # [..., A]
    low: jax.Array  # [..., A]  finite
    high: jax.Array  # [..., A]  finite, > low

    def _base(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_std)

    def _half(self) -> jax.Array:
        return 0.5 * (self.high - self.low)

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Standard normal numbers [*shape, ..., A]."""
        return self._base().noise(key, shape)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """x = mean + σ z [..., A]."""
        return self._base().sample_from(noise)

    def sample(self, key: jax.Array) -> jax.Array:
        """A random x [..., A]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """The mean of x [..., A]: squashed, the median of every component (the density itself may peak elsewhere)."""
        return self.mean

    def to_env(self, action: jax.Array) -> jax.Array:
        """a = centre + half · tanh x [..., A], in [low, high]."""
        squashed = 0.5 * (self.low + self.high) + self._half() * jnp.tanh(action)
        return jnp.clip(squashed, self.low, self.high)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(a) = log N(x; mean, σ) - Σⱼ log |daⱼ/dxⱼ| [...], of the x that was drawn: exact at any saturation."""
        return self._base().log_prob(action) - jnp.sum(_squash_log_det(action, self._half()), axis=-1)

    def entropy(self) -> jax.Array:
        """H(a) = H(x) + Σⱼ E[log |daⱼ/dxⱼ|] [...] (12), the expectation by quadrature.

        Error per component below 2e-6 for σ ≤ 1, 5e-4 for σ ≤ 3, 1e-2 for σ ≤ 5.
        """
        # Not a dot product: those may run in TF32.
        z, weights = (jnp.asarray(v, jnp.float32).reshape(-1, *(1,) * self.mean.ndim) for v in (_NODES, _WEIGHTS))
        mean, std, half = (v[None] for v in (self.mean, jnp.exp(self.log_std), self._half()))
        log_det = jnp.sum(weights * _squash_log_det(mean + std * z, half), axis=0)
        return self._base().entropy() + jnp.sum(log_det, axis=-1)

    def kl(self, new: "TanhGaussian") -> jax.Array:
        """KL(self ‖ new) [...]: that of the Gaussians, as both go through one bijection (the bounds must agree)."""
        return self._base().kl(new._base())


class Joint(NamedTuple):
    """Independent distributions in a dict or tuple, for compound actions; log-probability, entropy and KL are sums."""

    parts: Any  # dict or tuple of distributions with the same leading axes [...]

    def _flatten(self) -> tuple[list[Any], Any]:
        return jax.tree.flatten(self.parts, is_leaf=lambda node: isinstance(node, _KINDS))

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> Any:
        """The noise of every part, in the structure of `parts`."""
        parts, structure = self._flatten()
        keys = jax.random.split(key, len(parts))
        return structure.unflatten([part.noise(k, shape) for part, k in zip(parts, keys, strict=True)])

    def sample_from(self, noise: Any) -> Any:
        """The actions of every part, in the structure of `parts`."""
        parts, structure = self._flatten()
        noises = structure.flatten_up_to(noise)
        return structure.unflatten([part.sample_from(z) for part, z in zip(parts, noises, strict=True)])

    def sample(self, key: jax.Array) -> Any:
        """Random actions, in the structure of `parts`."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Any:
        """The greedy action of every part, in the structure of `parts`."""
        parts, structure = self._flatten()
        return structure.unflatten([part.mode() for part in parts])

    def to_env(self, action: Any) -> Any:
        """The actions of every part as the environment takes them."""
        parts, structure = self._flatten()
        actions = structure.flatten_up_to(action)
        return structure.unflatten([part.to_env(a) for part, a in zip(parts, actions, strict=True)])

    def log_prob(self, action: Any) -> jax.Array:
        """Σ over parts of log π(a) [...]; `action` has the structure of `parts`."""
        parts, structure = self._flatten()
        actions = structure.flatten_up_to(action)
        return _total(p.log_prob(a) for p, a in zip(parts, actions, strict=True))

    def entropy(self) -> jax.Array:
        """Σ over parts of H [...] (12)."""
        return _total(part.entropy() for part in self._flatten()[0])

    def kl(self, new: "Joint") -> jax.Array:
        """KL(self ‖ new) = Σ over parts of KL(old ‖ new) [...]."""
        pairs = zip(self._flatten()[0], new._flatten()[0], strict=True)
        return _total(old.kl(other) for old, other in pairs)


Distribution: TypeAlias = Categorical | MultiCategorical | DiagonalGaussian | TanhGaussian | Joint

_KINDS = (Categorical, MultiCategorical, DiagonalGaussian, TanhGaussian, Joint)
