"""Action distributions: NamedTuples of parameters with exact log-probability, entropy (12) and KL(old ‖ new).

All distributions have the same methods; `[...]` are the leading axes of their parameters:

    noise(key, shape=())  -> random arrays [*shape, ...], all that sampling needs; reads shapes only
    sample_from(noise)    -> action, deterministic
    sample(key)           -> sample_from(noise(key))
    mode()                -> the greedy action
    to_env(action)        -> the action for the environment; all other methods take the action as it was drawn
    log_prob(action)      -> [...] in nats
    entropy()             -> [...] in nats, (12)
    kl(new)               -> [...] in nats, KL(self ‖ new), where self is the OLD policy

Entropies and divergences: Cover & Thomas (2006), "Elements of Information Theory", chapters 2 and 8.

`noise` is separate from `sample_from` so that one call draws the noise of a whole rollout before its scan. It reads
shapes only, so the leaves may be `jax.ShapeDtypeStruct`. Parameters are float32.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from purejaxppo._util.aliases import Action, Noise, PyTree, TreeDef

# Masked logits become this number. Its exp is exactly 0, and 0 · log 0 is 0 · (-1e9) = 0 instead of 0 · (-inf) = NaN.
MASKED_LOGIT = -1e9

# Uniform floats are multiples of 2⁻²³. Half a step more makes them symmetric about 1/2, and never 0 or 1.
_HALF_STEP = 2.0**-24

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# E[f(z)] ≈ Σᵢ wᵢ f(zᵢ) for z ~ N(0, 1), by the trapezoid rule. Here it converges as fast as Gauss-Hermite quadrature.
# Its evenly spaced nodes are 10 times as accurate for σ > 1, where tanh bends sharply between two nodes.
_NODES = [-5.0 + 10.0 * i / 23 for i in range(24)]

_WEIGHTS = [math.exp(-0.5 * z * z) for z in _NODES]

_WEIGHTS = [weight / math.fsum(_WEIGHTS) for weight in _WEIGHTS]


def _by_action(logits: jax.Array) -> jax.Array:
    """Move the axis of actions to the front, [..., K] -> [K, ...], and make masks of -inf finite; NaN stays NaN.

    The methods reduce over the first axis, so that all other axes are one vectorized loop. Reducing over a last axis of
    two or three actions takes a CPU ten times as long.
    """
    logits = jnp.moveaxis(logits, -1, 0)
    return jnp.where(logits < MASKED_LOGIT, MASKED_LOGIT, logits)  # maximum() halves the gradient at equality


@jax.custom_jvp
def _normalized(logits: jax.Array) -> jax.Array:
    """Return the logarithm of the softmax over the first axis."""
    shifted = logits - jnp.max(logits, axis=0)[None]
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=0))[None]


@_normalized.defjvp
def _normalized_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    log_probs, (change,) = _normalized(*primals), tangents  # d log π(a) = dz_a - Σ_b π(b) dz_b
    return log_probs, change - jnp.sum(jnp.exp(log_probs) * change, axis=0)[None]


def _log_softmax(logits: jax.Array) -> jax.Array:
    """Return the log-probabilities of all actions, [..., K] -> [K, ...], finite for every finite or -inf logit."""
    return _normalized(_by_action(logits))


def _indices(by_action: jax.Array) -> jax.Array:
    """Return the index of each action, int32 [K, ...]."""
    return jax.lax.broadcasted_iota(jnp.int32, by_action.shape, 0)


def _total(terms: Iterable[jax.Array]) -> jax.Array:
    """Return the sum of one or more arrays."""
    return functools.reduce(operator.add, terms)


def _running_sums(weights: jax.Array) -> jax.Array:
    """Return the cumulative sums over the first axis, [K, ...]."""
    if len(weights) > 20:
        return jnp.cumsum(weights, axis=0)
    # Separate additions fuse with the surrounding operations; cumsum is a kernel by itself.
    return jnp.stack(list(itertools.accumulate(weights)))


def _squash_log_det(x: jax.Array, half: jax.Array) -> jax.Array:
    """Return log |d/dx half·tanh x| = log half + 2 (log 2 - x - softplus(-2x)), exact if 1 - tanh² x underflows."""
    return jnp.log(half) + 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))


@jax.custom_jvp
def _expected_log_det(mean: jax.Array, std: jax.Array) -> jax.Array:
    """Return E[log(1 - tanh² x)] for x ~ N(mean, σ²), [...], by quadrature with `_NODES`."""
    return _expected_log_det_and_slopes(mean, std)[0]


@_expected_log_det.defjvp
def _expected_log_det_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    value, by_mean, by_std = _expected_log_det_and_slopes(*primals)
    return value, by_mean * tangents[0] + by_std * tangents[1]


def _expected_log_det_and_slopes(mean: jax.Array, std: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return E[log(1 - tanh² x)] and its derivatives by the mean, -2 E[tanh x], and by σ, -2 E[z tanh x]; all [...].

    A CPU takes a quarter of the time that automatic differentiation of an array of all nodes needs: the terms of a node
    stay in cache, and one exponential yields the logarithm and the tanh.
    """
    flat_mean, flat_std = mean.ravel(), std.ravel()  # vectorized over all axes at once

    def add_node(sums: tuple[jax.Array, ...], node: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, ...], None]:
        z, weight = node
        x = flat_mean + flat_std * z
        q = jnp.exp(-2.0 * jnp.abs(x))  # 1 - tanh² x = 4q/(1 + q)², and |tanh x| = (1 - q)/(1 + q)
        half_log_det = weight * (math.log(2.0) - jnp.abs(x) - jnp.log(1.0 + q))
        slope = -weight * jnp.sign(x) * ((1.0 - q) / (1.0 + q))  # of half_log_det
        return (sums[0] + half_log_det, sums[1] + slope, sums[2] + z * slope), None

    nodes = (jnp.asarray(_NODES, jnp.float32), jnp.asarray(_WEIGHTS, jnp.float32))
    sums, _ = jax.lax.scan(add_node, (jnp.zeros_like(flat_mean),) * 3, nodes, unroll=6)
    value, by_mean, by_std = (2.0 * total.reshape(mean.shape) for total in sums)
    return value, by_mean, by_std


class Categorical(NamedTuple):
    """Categorical distribution π(a) = softmax(logits)ₐ over K actions; a logit of -inf (or ≤ -1e9) masks its action.

    Masks: Huang & Ontañón (2020), arXiv:2006.14171.
    """

    logits: jax.Array  # [..., K]

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw one uniform number in (0, 1) per action, [*shape, ...]."""
        return jax.random.uniform(key, (*shape, *self.logits.shape[:-1]), jnp.float32) + _HALF_STEP

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """Return the first a with u < Σ_{i ≤ a} π(i) (inverse CDF), int32 [...]; never a masked one, for 0 ≤ u ≤ 1."""
        logits = _by_action(self.logits)
        weights = jnp.exp(logits - jnp.max(logits, axis=0)[None])
        cumulative, index = _running_sums(weights), _indices(logits)
        # After rounding, u·total may reach the last sum, and the sum may rise at a masked action. So choose among the
        # actions that have a weight, and the last of these if none is reached.
        possible = weights > 0.0
        last = jnp.max(jnp.where(possible, index, 0), axis=0)[None]
        reached = possible & ((noise * cumulative[-1])[None] < cumulative)
        return jnp.min(jnp.where(reached, index, last), axis=0)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw an action, int32 [...]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """Return the most probable action, int32 [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def to_env(self, action: jax.Array) -> jax.Array:
        """Return the action unchanged."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Return log π(a) of an integer array [...], [...]; it is about -1e9 (not -inf) for a masked action."""
        log_probs = _log_softmax(self.logits)
        # A sum over a comparison has an element-wise gradient. That of a gather is a scatter.
        chosen = _indices(log_probs) == action.astype(jnp.int32)[None]
        return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=0)

    def entropy(self) -> jax.Array:
        """Return the entropy (12): H(π) = -Σₐ π(a) log π(a), with 0 log 0 = 0, [...]."""
        log_probs = _log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=0)

    def kl(self, new: "Categorical") -> jax.Array:
        """Return KL(self ‖ new) = Σₐ π_old(a) (log π_old(a) - log π_new(a)), [...]; exactly 0 for equal logits."""
        old_log_probs, new_log_probs = _log_softmax(self.logits), _log_softmax(new.logits)
        return jnp.sum(jnp.exp(old_log_probs) * (old_log_probs - new_log_probs), axis=0)


class MultiCategorical(NamedTuple):
    """n independent categorical components with K₁, …, Kₙ choices; log-probability, entropy and KL are sums."""

    logits: tuple[jax.Array, ...]  # n arrays [..., Kᵢ]

    def _components(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits]

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw one uniform number in (0, 1) per component, [*shape, ..., n]."""
        sizes = (*shape, *self.logits[0].shape[:-1], len(self.logits))
        return jax.random.uniform(key, sizes, jnp.float32) + _HALF_STEP

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """Return the choice of each component by inverse CDF, int32 [..., n]."""
        return jnp.stack(
            [component.sample_from(noise[..., i]) for i, component in enumerate(self._components())], axis=-1
        )

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw an action, int32 [..., n]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """Return the most probable choice of each component, int32 [..., n]."""
        return jnp.stack([component.mode() for component in self._components()], axis=-1)

    def to_env(self, action: jax.Array) -> jax.Array:
        """Return the action unchanged."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Return Σᵢ log πᵢ(aᵢ) of an integer array [..., n], [...]."""
        return _total(component.log_prob(action[..., i]) for i, component in enumerate(self._components()))

    def entropy(self) -> jax.Array:
        """Return the entropy (12): Σᵢ H(πᵢ), [...]."""
        return _total(component.entropy() for component in self._components())

    def kl(self, new: "MultiCategorical") -> jax.Array:
        """Return KL(self ‖ new) = Σᵢ KL(π_oldᵢ ‖ π_newᵢ), [...]."""
        pairs = zip(self._components(), new._components(), strict=True)
        return _total(old.kl(other) for old, other in pairs)


class DiagonalGaussian(NamedTuple):
    """Normal distribution N(mean, diag(σ²)), σ = exp(log_std), over A-dimensional actions.

    Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    mean: jax.Array  # [..., A]
    log_std: jax.Array  # [..., A]

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw standard normal numbers, [*shape, ..., A]."""
        return jax.random.normal(key, (*shape, *self.mean.shape), jnp.float32)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """Return mean + σ z, [..., A]."""
        return self.mean + jnp.exp(self.log_std) * noise

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw an action, [..., A]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """Return the mean, [..., A]."""
        return self.mean

    def to_env(self, action: jax.Array) -> jax.Array:
        """Return the action unchanged."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Return log π(a) = Σⱼ -((aⱼ - meanⱼ)/σⱼ)²/2 - log σⱼ - log √(2π), [...]."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(z) - self.log_std - _LOG_SQRT_2PI, axis=-1)

    def entropy(self) -> jax.Array:
        """Return the differential entropy (12): H = Σⱼ log σⱼ + log √(2πe), [...]; it may be negative."""
        return jnp.sum(self.log_std + (0.5 + _LOG_SQRT_2PI), axis=-1)

    def kl(self, new: "DiagonalGaussian") -> jax.Array:
        """Return KL(self ‖ new) = Σⱼ log(σ'ⱼ/σⱼ) + (σⱼ² + (meanⱼ - mean'ⱼ)²) / (2σ'ⱼ²) - 1/2, [...].

        It is exactly 0 for equal parameters.
        """
        # With d = log(σ/σ') this is (e²ᵈ - 1 - 2d)/2 + (Δmean/σ')²/2. No terms of order 1 cancel if d is small.
        twice_d = 2.0 * (self.log_std - new.log_std)
        z = (self.mean - new.mean) * jnp.exp(-new.log_std)
        return 0.5 * jnp.sum(jnp.expm1(twice_d) - twice_d + jnp.square(z), axis=-1)


class TanhGaussian(NamedTuple):
    """Diagonal Gaussian squashed into the box (low, high): a = center + half · tanh x, x ~ N(mean, diag(σ²)).

    Haarnoja et al. (2018), "Soft actor-critic", arXiv:1801.01290, appendix C. Methods draw and take x, not a: near a
    bound x cannot be recovered from a float32 a. The environment gets `to_env(x)`.
    """

    mean: jax.Array  # [..., A]  of x, before the tanh
    log_std: jax.Array  # [..., A]
    low: jax.Array  # [..., A]  finite
    high: jax.Array  # [..., A]  finite, > low

    def _base(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_std)

    def _half(self) -> jax.Array:
        return 0.5 * (self.high - self.low)

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw standard normal numbers, [*shape, ..., A]."""
        return self._base().noise(key, shape)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """Return x = mean + σ z, [..., A]."""
        return self._base().sample_from(noise)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw x, [..., A]."""
        return self.sample_from(self.noise(key))

    def mode(self) -> jax.Array:
        """Return the mean of x, [..., A]. Its image is the median of each component; the density may peak elsewhere."""
        return self.mean

    def to_env(self, action: jax.Array) -> jax.Array:
        """Return a = center + half · tanh x, [..., A], in [low, high]."""
        squashed = 0.5 * (self.low + self.high) + self._half() * jnp.tanh(action)
        return jnp.clip(squashed, self.low, self.high)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Return log π(a) = log N(x; mean, σ) - Σⱼ log |daⱼ/dxⱼ|, [...], from x: exact at any saturation."""
        return self._base().log_prob(action) - jnp.sum(_squash_log_det(action, self._half()), axis=-1)

    def entropy(self) -> jax.Array:
        """Return the differential entropy (12): H(a) = H(x) + Σⱼ E[log |daⱼ/dxⱼ|], [...], by quadrature.

        The error per component is below 2e-6 for σ ≤ 1, 5e-4 for σ ≤ 3, 1e-2 for σ ≤ 5.
        """
        log_det = jnp.log(self._half()) + _expected_log_det(self.mean, jnp.exp(self.log_std))
        return self._base().entropy() + jnp.sum(log_det, axis=-1)

    def kl(self, new: "TanhGaussian") -> jax.Array:
        """Return KL(self ‖ new), [...]: that of the Gaussians, since a bijection keeps it (the bounds must agree)."""
        return self._base().kl(new._base())


class Joint(NamedTuple):
    """Independent distributions in a dict or tuple, for compound actions; log-probability, entropy and KL are sums."""

    components: PyTree  # dict or tuple of distributions with the same leading axes [...]

    def _flatten(self) -> tuple[list[PyTree], TreeDef]:
        return jax.tree.flatten(self.components, is_leaf=lambda node: isinstance(node, _KINDS))

    def noise(self, key: jax.Array, shape: tuple[int, ...] = ()) -> Noise:
        """Draw the noise of each component, in the structure of `components`."""
        components, structure = self._flatten()
        keys = jax.random.split(key, len(components))
        return structure.unflatten([component.noise(k, shape) for component, k in zip(components, keys, strict=True)])

    def sample_from(self, noise: Noise) -> Action:
        """Return the action of each component, in the structure of `components`."""
        components, structure = self._flatten()
        noises = structure.flatten_up_to(noise)
        return structure.unflatten([component.sample_from(z) for component, z in zip(components, noises, strict=True)])

    def sample(self, key: jax.Array) -> Action:
        """Draw the action of each component, in the structure of `components`."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Action:
        """Return the greedy action of each component, in the structure of `components`."""
        components, structure = self._flatten()
        return structure.unflatten([component.mode() for component in components])

    def to_env(self, action: Action) -> Action:
        """Return the action of each component for the environment."""
        components, structure = self._flatten()
        actions = structure.flatten_up_to(action)
        return structure.unflatten([component.to_env(a) for component, a in zip(components, actions, strict=True)])

    def log_prob(self, action: Action) -> jax.Array:
        """Return the sum of log π(a) over the components, [...]; `action` has their structure."""
        components, structure = self._flatten()
        actions = structure.flatten_up_to(action)
        return _total(p.log_prob(a) for p, a in zip(components, actions, strict=True))

    def entropy(self) -> jax.Array:
        """Return the entropy (12): the sum over the components, [...]."""
        return _total(component.entropy() for component in self._flatten()[0])

    def kl(self, new: "Joint") -> jax.Array:
        """Return KL(self ‖ new): the sum over the components, [...]."""
        pairs = zip(self._flatten()[0], new._flatten()[0], strict=True)
        return _total(old.kl(other) for old, other in pairs)


Distribution: TypeAlias = Categorical | MultiCategorical | DiagonalGaussian | TanhGaussian | Joint

_KINDS = (Categorical, MultiCategorical, DiagonalGaussian, TanhGaussian, Joint)
