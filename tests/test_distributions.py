"""Action distributions compared with closed forms in NumPy float64, SciPy and Monte Carlo."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from slow import slow_except

from purejaxppo.distributions import Categorical, DiagonalGaussian, Joint, MultiCategorical, TanhGaussian

MODES = slow_except(["plain", "jit", "vmap"], "jit", "vmap")
MASKS = (-np.inf, -1e9, -1e30, float(np.finfo(np.float32).min))
LOW, HIGH = np.float64(
    np.float32([[-1, 1], [-2, 2], [0, 1], [-3, 7], [-5, 0], [100, 101], [-1e-3, 2e-3], [-4e2, 9e2]])
).T
BATCH = (3, 4)


@functools.cache
def compiled(mode, function):
    return {"plain": function, "jit": jax.jit(function), "vmap": jax.jit(jax.vmap(function))}[mode]


def call(mode, function, *arguments):
    """Call a function op by op, compiled, or mapped over the leading axis and compiled."""
    return compiled(mode, function)(*arguments)


def array(values):
    return jnp.asarray(values, jnp.float32)


def f64(values):
    return np.asarray(values, np.float64)


@jax.jit
def log_probs_of_samples(old, new, key):
    """Return the log-probabilities under `old` and under `new` of 400,000 samples of `old`."""
    actions = jax.vmap(old.sample_from)(old.noise(key, (400_000,)))
    return jax.vmap(old.log_prob)(actions), jax.vmap(new.log_prob)(actions)


def tanh_gaussian(mean, log_std, low, high):
    """Make a TanhGaussian from parameters that broadcast against each other."""
    return TanhGaussian(*(array(value) for value in np.broadcast_arrays(mean, log_std, low, high)))


def make(kind, seed):
    """Make a distribution of a kind with random parameters and the batch axes BATCH."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: array(rng.normal(size=(*BATCH, *shape)))  # noqa: E731
    match kind:
        case "categorical":
            return Categorical(normal(5))
        case "masked":
            return Categorical(normal(5).at[..., 1].set(-jnp.inf).at[..., 4].set(-1e9))
        case "multi":
            return MultiCategorical((normal(2), normal(4), normal(3)))
        case "gaussian":
            return DiagonalGaussian(normal(3), 0.5 * normal(3))
        case "tanh":
            return tanh_gaussian(normal(3), 0.5 * normal(3), -3.0, 7.0)
    return Joint({"steer": make("tanh", seed + 1), "gear": make("categorical", seed + 2), "a": make("multi", seed + 3)})


KINDS = ("categorical", "masked", "multi", "gaussian", "tanh", "joint")


# Slow forms, NumPy float64.


def np_softmax(logits):
    weights = np.exp(f64(logits) - np.max(f64(logits), axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def np_entropy(p):
    return special.entr(p).sum(axis=-1)


def np_kl(p, q):
    return special.rel_entr(p, q).sum(axis=-1)


def np_gaussian_kl(old, new):
    """Matrix form: (tr Σ'⁻¹Σ + Δᵀ Σ'⁻¹ Δ - A + log det Σ'/det Σ) / 2, one distribution at a time."""
    out = np.zeros(old.mean.shape[:-1])
    for where in np.ndindex(out.shape):
        s, t = (np.diag(np.exp(2 * f64(d.log_std[where]))) for d in (old, new))
        gap = f64(new.mean[where]) - f64(old.mean[where])
        inverse = np.linalg.inv(t)
        log_dets = np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
        out[where] = 0.5 * (np.trace(inverse @ s) + gap @ inverse @ gap - len(gap) + log_dets)
    return out


def np_log_det(x, low, high):
    """Return log |d/dx (center + half tanh x)| from the derivative, float64."""
    return np.log(0.5 * (high - low)) - 2 * np.log(np.cosh(x))


def np_tanh_entropy(mean, std, low, high):
    z = np.linspace(-12, 12, 48_001)
    log_det = np.trapezoid(stats.norm.pdf(z) * np_log_det(mean + std * z, low, high), z)
    return stats.norm(mean, std).entropy() + log_det


# Categorical.


@pytest.mark.parametrize("mode", MODES)
def test_categorical_log_prob_is_log_softmax_and_sums_to_one(mode):
    dist = make("categorical", 0)
    every = Categorical(jnp.broadcast_to(dist.logits[..., None, :], (*BATCH, 5, 5)))
    action = jnp.broadcast_to(jnp.arange(5, dtype=jnp.int32), (*BATCH, 5))
    log_probs = f64(call(mode, Categorical.log_prob, every, action))
    np.testing.assert_allclose(np.exp(log_probs), np_softmax(dist.logits), rtol=2e-6)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["categorical", "masked"])
def test_eq12_categorical_entropy_is_minus_sum_p_log_p(mode, kind):
    dist = make(kind, 1)
    np.testing.assert_allclose(call(mode, Categorical.entropy, dist), np_entropy(np_softmax(dist.logits)), rtol=2e-6)


def test_eq12_categorical_entropy_extremes():
    uniform = Categorical(jnp.full((7,), 3.0))
    np.testing.assert_allclose(uniform.entropy(), np.log(7), rtol=1e-6)
    assert float(Categorical(array([0.0, -np.inf, -np.inf])).entropy()) == 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["categorical", "masked"])
def test_eq12_categorical_kl_is_sum_p_log_p_over_q(mode, kind):
    old, new = make(kind, 2), make(kind, 3)
    expected = np_kl(np_softmax(old.logits), np_softmax(new.logits))
    np.testing.assert_allclose(call(mode, Categorical.kl, old, new), expected, rtol=1e-5, atol=1e-6)
    # The direction matters: the reverse KL differs.
    assert np.abs(f64(old.kl(new)) - f64(new.kl(old))).max() > 0.01


def test_categorical_score_has_mean_zero_and_kl_hessian_is_fisher():
    logits = array([0.3, -1.0, 2.0, 0.0])
    p = np_softmax(logits)
    score = jax.jit(jax.vmap(jax.grad(lambda x, a: Categorical(x).log_prob(a)), (None, 0)))
    np.testing.assert_allclose(p @ f64(score(logits, jnp.arange(4, dtype=jnp.int32))), 0.0, atol=1e-6)
    hessian = jax.jit(jax.hessian(lambda x: Categorical(logits).kl(Categorical(x))))(logits)
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-6)


# Masks. Logits [what masks, which actions are masked, samples, K].

MASKED = np.zeros((6, 5), bool)
for row, where in enumerate([(0,), (4,), (1, 3), (0, 1, 2, 3), (1, 2, 3, 4), ()]):
    MASKED[row, list(where)] = True


def unmasked_and_masked_logits(seed):
    logits = np.random.default_rng(seed).normal(size=(len(MASKS), len(MASKED), 3, 5))
    fill = np.array(MASKS)[:, None, None, None]
    return array(logits), array(np.where(MASKED[:, None], fill, logits))


@pytest.mark.parametrize("mode", MODES)
def test_eq12_masked_logits_equal_the_distribution_without_them(mode):
    (plain_old, old), (plain_new, new) = unmasked_and_masked_logits(4), unmasked_and_masked_logits(5)
    entropy = call(mode, Categorical.entropy, Categorical(old))
    kl = call(mode, Categorical.kl, Categorical(old), Categorical(new))
    first_allowed = jnp.asarray((~MASKED).argmax(axis=-1), jnp.int32)[:, None]
    action = jnp.broadcast_to(first_allowed, old.shape[:-1])
    log_prob = f64(call(mode, Categorical.log_prob, Categorical(old), action))
    for row, masked in enumerate(MASKED):
        p, q = (np_softmax(f64(logits)[:, row][..., ~masked]) for logits in (plain_old, plain_new))
        np.testing.assert_allclose(entropy[:, row], np_entropy(p), rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(kl[:, row], np_kl(p, q), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.exp(log_prob[:, row]), p[..., 0], rtol=2e-6)


def usual_terms(old, new, unmasked, allowed, masked):
    """Return the terms of a loss if both policies share the mask, and if the new one drops it."""
    old, new, unmasked = Categorical(old), Categorical(new), Categorical(unmasked)
    return new.log_prob(allowed) + old.entropy() + new.entropy() + old.kl(new) + old.kl(unmasked)


def extreme_terms(old, new, unmasked, allowed, masked):
    """Return terms with old probability where the new policy has none, and of a masked action: huge, not infinite."""
    return Categorical(unmasked).kl(Categorical(old)) + Categorical(new).log_prob(masked)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terms", [usual_terms, extreme_terms])
def test_masked_logits_have_finite_values_and_gradients(mode, terms):
    (unmasked, old), (_, new) = unmasked_and_masked_logits(6), unmasked_and_masked_logits(7)
    allowed, masked = (jnp.asarray(f(old, axis=-1), jnp.int32) for f in (np.argmax, np.argmin))
    arguments = (old, new, unmasked, allowed, masked)
    values = call(mode, terms, *arguments)
    assert np.isfinite(values).all()
    gradients = call(mode, jax.grad(lambda *x: jnp.sum(terms(*x)), argnums=(0, 1, 2)), *arguments)
    assert all(np.isfinite(g).all() for g in gradients)
    if terms is usual_terms:
        hidden = np.broadcast_to(MASKED[:, None], old.shape)
        assert all((f64(g)[hidden] == 0).all() for g in gradients[:2])
    else:
        assert (f64(Categorical(old).log_prob(masked))[:, :-1] < -1e8).all()


def test_masked_actions_are_never_sampled():
    draws = 1_000_000
    rows = (
        [[m, 1.0, m, -3.0, m] for m in MASKS] + [[m, m, m, m, 0.5] for m in MASKS] + [[0.1, m, m, m, m] for m in MASKS]
    )
    logits = array(rows)
    noise = Categorical(jax.ShapeDtypeStruct((5,), jnp.float32)).noise(jax.random.key(1), (draws, 1))
    sample = jax.jit(lambda u: Categorical(jnp.broadcast_to(logits, (draws, *logits.shape))).sample_from(u))
    action = np.asarray(sample(jnp.broadcast_to(noise, (draws, len(rows)))))
    for column, row in zip(action.T, rows, strict=True):
        counts = np.bincount(column, minlength=5)
        assert (counts[np.array(row) <= -1e9] == 0).all()
        assert (counts[np.array(row) > -1e9] > 1000).all()


def test_eq12_masked_multi_categorical_equals_its_unmasked_components():
    fill = np.array(MASKS)[:, None]
    normal = np.random.default_rng(8).normal(size=(2, 4, 4))
    old, new = (
        MultiCategorical((array(np.hstack([x[:, :1], fill, x[:, 1:2]])), array(np.hstack([fill, x[:, 2:3]]))))
        for x in normal
    )
    p, q = (np_softmax(x[:, :2]) for x in normal)
    np.testing.assert_allclose(old.entropy(), np_entropy(p), rtol=2e-6)
    np.testing.assert_allclose(old.kl(new), np_kl(p, q), rtol=1e-5, atol=1e-6)
    action = jnp.broadcast_to(jnp.array([2, 1], jnp.int32), (4, 2))
    loss = lambda d: jnp.sum(d.entropy() + d.log_prob(action) + old.kl(d))  # noqa: E731
    assert all(np.isfinite(g).all() for g in jax.jit(jax.grad(loss))(new).logits)


def test_nan_logits_give_nan():
    dist = Categorical(array([0.0, np.nan, 1.0]))
    values = [dist.log_prob(jnp.int32(0)), dist.entropy(), dist.kl(Categorical(jnp.zeros(3)))]
    assert np.isnan(values).all()


# Sampling by the inverse CDF.


@pytest.mark.parametrize("size", [2, 5, 50])
def test_categorical_frequencies_match_softmax(size):
    draws = 400_000
    logits = array(np.random.default_rng(size).normal(size=size))
    action = jax.jit(lambda key: jax.vmap(Categorical(logits).sample_from)(Categorical(logits).noise(key, (draws,))))(
        jax.random.key(size)
    )
    counts = np.bincount(np.asarray(action), minlength=size)
    assert stats.chisquare(counts, draws * np_softmax(logits)).pvalue > 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [2, 20, 21])
def test_categorical_sample_from_is_the_inverse_cdf(mode, size):
    rng = np.random.default_rng(size)
    logits = array(rng.normal(size=(6, size)))
    cdf = np.cumsum(np_softmax(logits), axis=-1)
    # For every action: just above the sum up to the previous action, and just below the sum up to this one.
    before = np.concatenate([np.zeros((6, 1)), cdf[:, :-1]], axis=-1)
    u = array(np.stack([before + 2e-6, cdf - 2e-6]))
    dist = Categorical(jnp.broadcast_to(logits[None, :, None], (2, 6, size, size)))
    action = call(mode, Categorical.sample_from, dist, u)
    np.testing.assert_array_equal(action, np.broadcast_to(np.arange(size), (2, 6, size)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 20, 21])
def test_categorical_sampling_at_the_ends_of_the_unit_interval(mode, size):
    """u = 0 gives the first unmasked action and u = 1 the last: never out of range, never a masked one."""
    rng = np.random.default_rng(size)
    logits = rng.normal(scale=1.5, size=(2000, size)).astype(np.float32)
    allowed = rng.uniform(size=logits.shape) < rng.uniform(size=(2000, 1))
    allowed[np.arange(2000), rng.integers(size, size=2000)] = True
    dist = Categorical(jnp.where(allowed, logits, -jnp.inf))
    first, last = allowed.argmax(axis=-1), size - 1 - allowed[:, ::-1].argmax(axis=-1)
    u = np.stack([np.full(2000, u) for u in (0.0, 1.0 - 2.0**-24, 1.0)] + [rng.uniform(size=2000)])
    dist = Categorical(jnp.broadcast_to(dist.logits, (4, 2000, size)))
    action = np.asarray(call(mode, Categorical.sample_from, dist, array(u)))
    np.testing.assert_array_equal(action[:3], np.stack([first, last, last]))
    assert allowed[np.arange(2000), action[3]].all()


def test_masked_actions_are_not_sampled_if_rounded_sums_disagree():
    """Among 1000 actions a parallel sum may increase at a masked action by a rounding error; u is probed near it."""
    rng = np.random.default_rng(13)
    logits = rng.normal(size=(4, 1000)).astype(np.float32)
    allowed = rng.uniform(size=logits.shape) < 0.5
    logits[~allowed] = -np.inf
    cdf = np.float32(np.cumsum(np_softmax(logits), axis=-1))
    u = cdf[..., None] + np.float32(2.0**-24) * np.arange(-6, 7, dtype=np.float32)  # [4, 1000, 13]
    sample = jax.jit(lambda row, noise: jax.lax.map(jax.vmap(lambda z: Categorical(row).sample_from(z)), noise))
    for row, mask, noise in zip(logits, allowed, np.clip(u, 0.0, 1.0), strict=True):
        action = np.asarray(sample(array(row), array(noise)))
        assert mask[action].all()


def test_categorical_noise_is_centered_in_the_open_unit_interval():
    noise = f64(Categorical(jnp.zeros((1000, 2))).noise(jax.random.key(19), (100,)))
    np.testing.assert_array_equal(noise * 2**24 % 2, 1.0)  # midpoints of a grid of 2⁻²³: never 0, 1 or 1/2
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-3
    # u = 1/2 belongs to the second of two equal actions: a is the first with u < the sum up to and including a.
    assert int(Categorical(jnp.zeros(2)).sample_from(jnp.float32(0.5))) == 1


def test_categorical_sampling_covers_a_dominant_action_and_a_rare_one():
    """A probability far below the resolution of the noise is not rounded up to it."""
    draws = 1 << 22

    @jax.jit
    def zeros(logits, key):
        return jnp.sum(Categorical(jnp.broadcast_to(logits, (draws, 2))).sample(key) == 0)

    assert zeros(array([-40.0, 0.0]), jax.random.key(2)) == 0
    count, p = int(zeros(array([-6.0, 0.0]), jax.random.key(3))), float(special.expit(-6.0))
    assert abs(count - draws * p) < 4 * np.sqrt(draws * p)


# MultiCategorical.


@pytest.mark.parametrize("mode", MODES)
def test_eq12_multi_categorical_by_enumeration_of_all_actions(mode):
    old, new = make("multi", 9), make("multi", 10)
    actions = list(itertools.product(range(2), range(4), range(3)))

    def log_probs(dist):
        grid = MultiCategorical(tuple(jnp.repeat(x[..., None, :], len(actions), axis=-2) for x in dist.logits))
        every = jnp.broadcast_to(jnp.array(actions, jnp.int32), (*BATCH, len(actions), 3))
        return f64(call(mode, MultiCategorical.log_prob, grid, every))

    p, q = np.exp(log_probs(old)), np.exp(log_probs(new))
    joint = np.stack([
        np.prod([np_softmax(logits)[..., a] for logits, a in zip(old.logits, action, strict=True)], axis=0)
        for action in actions
    ], axis=-1)  # fmt: skip
    np.testing.assert_allclose(p, joint, rtol=5e-6)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=2e-6)
    np.testing.assert_allclose(call(mode, MultiCategorical.entropy, old), np_entropy(joint), rtol=5e-6)
    np.testing.assert_allclose(call(mode, MultiCategorical.kl, old, new), np_kl(p, q), rtol=1e-5, atol=2e-6)


def test_multi_categorical_samples_are_independent_and_have_the_right_distribution():
    draws = 300_000
    logits = (array([0.5, -0.5]), array([0.0, 1.0, -1.0]))
    dist = MultiCategorical(tuple(jnp.broadcast_to(x, (draws, *x.shape)) for x in logits))
    action = np.asarray(call("jit", MultiCategorical.sample, dist, jax.random.key(4)))
    counts = np.bincount(action[:, 0] * 3 + action[:, 1], minlength=6)
    expected = np.outer(np_softmax(logits[0]), np_softmax(logits[1])).ravel()
    assert stats.chisquare(counts, draws * expected).pvalue > 1e-3
    np.testing.assert_array_equal(MultiCategorical(logits).mode(), [0, 1])


# Diagonal Gaussian.


@pytest.mark.parametrize("mode", MODES)
def test_gaussian_log_prob_matches_scipy(mode):
    dist = make("gaussian", 11)
    action = dist.sample(jax.random.key(5))
    expected = stats.norm.logpdf(f64(action), f64(dist.mean), np.exp(f64(dist.log_std))).sum(axis=-1)
    np.testing.assert_allclose(call(mode, DiagonalGaussian.log_prob, dist, action), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_eq12_gaussian_entropy_matches_scipy(mode):
    dist = make("gaussian", 12)
    expected = stats.norm(f64(dist.mean), np.exp(f64(dist.log_std))).entropy().sum(axis=-1)
    np.testing.assert_allclose(call(mode, DiagonalGaussian.entropy, dist), expected, rtol=2e-6)


@pytest.mark.parametrize("mode", MODES)
def test_eq12_gaussian_kl_matches_the_matrix_form(mode):
    old, new = make("gaussian", 13), make("gaussian", 14)
    np.testing.assert_allclose(call(mode, DiagonalGaussian.kl, old, new), np_gaussian_kl(old, new), rtol=2e-5)


def test_eq12_gaussian_entropy_and_kl_match_monte_carlo():
    old = DiagonalGaussian(array([0.3, -1.0]), array([-0.5, 0.4]))
    new = DiagonalGaussian(array([0.0, -0.5]), array([-0.2, 0.2]))
    log_old, log_new = map(f64, log_probs_of_samples(old, new, jax.random.key(6)))
    assert abs(-log_old.mean() - float(old.entropy())) < 4 * log_old.std() / np.sqrt(len(log_old))
    gap = log_old - log_new
    assert abs(gap.mean() - float(old.kl(new))) < 4 * gap.std() / np.sqrt(len(gap))
    assert abs(gap.mean() - float(new.kl(old))) > 0.02


def test_gaussian_density_integrates_to_one():
    dist = DiagonalGaussian(array([0.7]), array([-1.0]))
    x = np.linspace(-4, 5, 4001, dtype=np.float32)
    density = np.exp(f64(jax.vmap(dist.log_prob)(array(x)[:, None])))
    np.testing.assert_allclose(np.trapezoid(density, f64(x)), 1.0, rtol=1e-6)


def test_gaussian_kl_of_tiny_steps_is_accurate_and_its_hessian_is_fisher():
    """Second-order accuracy: KL ≈ Δᵀ F Δ / 2 with F = diag(1/σ², 2), where a textbook form rounds to noise."""
    old = DiagonalGaussian(array([0.5]), array([0.3]))
    for step in (1e-2, 1e-3, 1e-4):
        moved = DiagonalGaussian(old.mean + step, old.log_std + step)
        np.testing.assert_allclose(call("jit", DiagonalGaussian.kl, old, moved), np_gaussian_kl(old, moved), rtol=2e-3)
    kl = lambda x: old.kl(DiagonalGaussian(x[:1], x[1:]))  # noqa: E731
    hessian = jax.jit(jax.hessian(kl))(jnp.concatenate([old.mean, old.log_std]))
    np.testing.assert_allclose(hessian, np.diag([np.exp(-0.6), 2.0]), atol=1e-6)


def test_gaussian_sample_from_is_mean_plus_std_times_noise():
    dist = make("gaussian", 15)
    noise = dist.noise(jax.random.key(7))
    expected = f64(dist.mean) + np.exp(f64(dist.log_std)) * f64(noise)
    np.testing.assert_allclose(dist.sample_from(noise), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dist.mode(), dist.mean)
    many = f64(dist.noise(jax.random.key(8), (20_000,)))
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01


# Tanh-Gaussian.


@pytest.mark.parametrize("mode", MODES)
def test_tanh_gaussian_log_det_matches_the_numeric_derivative(mode):
    """log π(a) against N(x) / |da/dx|, with x and da/dx from float64 arithmetic on the x as stored; all bounds."""
    centre, half = 0.5 * (LOW + HIGH)[:, None], 0.5 * (HIGH - LOW)[:, None]
    u = np.concatenate([np.linspace(-0.99, 0.99, 41), [-0.9999, 0.9999]])
    drawn = array(np.arctanh(u) + 0.0 * centre)[..., None]
    dist = tanh_gaussian(np.full(drawn.shape, 0.4), -0.3, LOW[:, None, None], HIGH[:, None, None])
    x = f64(drawn)[..., 0]
    action = f64(call(mode, TanhGaussian.to_env, dist, drawn))[..., 0]
    np.testing.assert_allclose((action - centre) / half, np.tanh(x), rtol=1e-6, atol=8e-6)  # (100, 101): 8e-6 apart
    slope = half * (np.tanh(x + 1e-5) - np.tanh(x - 1e-5)) / 2e-5
    expected = stats.norm.logpdf(x, 0.4, np.exp(-0.3)) - np.log(slope)
    np.testing.assert_allclose(call(mode, TanhGaussian.log_prob, dist, drawn), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("log_std", [-1.5, -0.3])
def test_tanh_gaussian_density_integrates_to_one(log_std):
    """Over the actions a, x from -6 to 6; the a themselves in float64, as (100, 101) has few float32 ones."""
    centre, half = 0.5 * (LOW + HIGH)[:, None], 0.5 * (HIGH - LOW)[:, None]
    drawn = array(np.linspace(-6.0, 6.0, 6001) + 0.0 * centre)
    dist = tanh_gaussian(np.full((*drawn.shape, 1), 0.3), log_std, LOW[:, None, None], HIGH[:, None, None])
    density = np.exp(f64(call("jit", TanhGaussian.log_prob, dist, drawn[..., None])))
    np.testing.assert_allclose(np.trapezoid(density, centre + half * np.tanh(f64(drawn)), axis=-1), 1.0, atol=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_tanh_gaussian_is_exact_at_saturation(mode):
    """If every action is the bound in float32, the log-probability is still that of the sampled x."""
    mean = np.array([-1000.0, -20.0, -9.0, 9.0, 20.0, 1000.0])[:, None, None]
    dist = tanh_gaussian(np.repeat(mean, 2, axis=-1), 0.0, LOW[:, None], HIGH[:, None])
    noise = dist.noise(jax.random.key(9))
    drawn = call(mode, TanhGaussian.sample_from, dist, noise)
    action = call(mode, TanhGaussian.to_env, dist, drawn)
    assert ((action >= dist.low) & (action <= dist.high)).all()
    x, low, high = f64(drawn), LOW[:, None], HIGH[:, None]
    far = np.log(0.5 * (high - low)) + 2 * np.log(2) - 2 * np.abs(x) - 2 * np.log1p(np.exp(-2 * np.abs(x)))
    expected = (stats.norm.logpdf(x, mean) - far).sum(-1)
    np.testing.assert_allclose(call(mode, TanhGaussian.log_prob, dist, drawn), expected, rtol=1e-5, atol=2e-4)
    score = jax.jit(jax.grad(lambda d: jnp.sum(d.log_prob(drawn))))(dist).mean  # z / σ, exactly
    np.testing.assert_allclose(score, noise, atol=1e-4)
    loss = lambda d, a: jnp.sum(d.log_prob(a) + d.entropy() + d.kl(d._replace(mean=0.5 * d.mean)))  # noqa: E731
    if mode != "plain":
        assert all(np.isfinite(g).all() for g in call(mode, jax.grad(loss), dist, drawn))
    # For large |x| the log-determinant is log half + 2 log 2 - 2 |x|, where 1 - tanh² x is 0 in float32.
    far = stats.norm.entropy() + np.log(0.5 * (HIGH - LOW)) + 2 * np.log(2) - 2 * np.abs(mean[..., 0])
    np.testing.assert_allclose(call(mode, TanhGaussian.entropy, dist), 2 * far, rtol=1e-5, atol=1e-4)


def test_tanh_gaussian_gradient_matches_finite_differences():
    drawn, low, high = np.float32([0.53]), -2.0, 3.0

    def slow(parameters):
        x = f64(drawn)
        return (stats.norm.logpdf(x, parameters[0], np.exp(parameters[1])) - np_log_det(x, low, high))[0]

    point = np.array([0.2, -0.4])
    gradient = jax.jit(jax.grad(lambda d: d.log_prob(array(drawn))))(tanh_gaussian(point[:1], point[1:], low, high))
    numeric = [(slow(point + step) - slow(point - step)) / 2e-6 for step in np.eye(2) * 1e-6]
    np.testing.assert_allclose([gradient.mean[0], gradient.log_std[0]], numeric, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_eq12_tanh_gaussian_entropy_matches_quadrature(mode):
    mean = np.array([0.0, 0.4, -1.3, 3.0, -8.0])
    std = np.float64(np.float32([0.05, 0.5, 1.0, 2.0, 3.0, 5.0]))[:, None]
    dist = tanh_gaussian(mean[None, :, None], np.log(std)[..., None], -3.0, 7.0)
    expected = np.vectorize(np_tanh_entropy)(mean, std, -3.0, 7.0)
    error = np.abs(f64(call(mode, TanhGaussian.entropy, dist)) - expected)
    assert (error < np.array([[5e-6], [5e-6], [5e-6], [5e-5], [5e-4], [1e-2]])).all()


def test_eq12_tanh_gaussian_entropy_and_kl_match_monte_carlo():
    low, high = array([-1.0, 0.0]), array([1.0, 5.0])
    old = TanhGaussian(array([0.3, -0.7]), array([-0.5, 0.1]), low, high)
    new = TanhGaussian(array([0.0, -0.2]), array([-0.2, 0.0]), low, high)
    log_old, log_new = map(f64, log_probs_of_samples(old, new, jax.random.key(10)))
    assert abs(-log_old.mean() - float(old.entropy())) < 4 * log_old.std() / np.sqrt(len(log_old))
    gap = log_old - log_new
    assert abs(gap.mean() - float(old.kl(new))) < 4 * gap.std() / np.sqrt(len(gap))
    np.testing.assert_allclose(old.kl(new), np_gaussian_kl(old, new), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_tanh_gaussian_entropy_gradient_matches_finite_differences(mode):
    slow = lambda p: np_tanh_entropy(p[0], np.exp(p[1]), -2.0, 2.0)  # noqa: E731
    points = np.array([[0.5, -0.5], [-2.0, 0.3], [0.0, -3.0], [7.0, 0.5]])
    dist = tanh_gaussian(points[:, :1], points[:, 1:], -2.0, 2.0)
    gradient = call(mode, jax.grad(lambda d: jnp.sum(d.entropy())), dist)
    for row, point in enumerate(points):
        numeric = [(slow(point + step) - slow(point - step)) / 2e-5 for step in np.eye(2) * 1e-5]
        fast = [gradient.mean[row, 0], gradient.log_std[row, 0]]
        np.testing.assert_allclose(fast, numeric, rtol=1e-4, atol=1e-5)


def test_tanh_gaussian_mode_is_the_squashed_mean_and_the_median():
    dist = tanh_gaussian([[0.3, -0.8]], [[-0.5, 0.2]], -3.0, 7.0)
    greedy = dist.to_env(dist.mode())
    np.testing.assert_allclose(greedy, 2.0 + 5.0 * np.tanh([[0.3, -0.8]]), rtol=1e-6)
    noise = dist.noise(jax.random.key(11), (200_000,))
    actions = f64(jax.jit(lambda noise: jax.vmap(lambda z: dist.to_env(dist.sample_from(z)))(noise))(noise))
    np.testing.assert_allclose((actions < f64(greedy)).mean(axis=0), 0.5, atol=0.005)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("tanh", "joint")])
def test_other_distributions_do_not_change_actions(kind):
    dist = make(kind, 31)
    action = call("jit", type(dist).sample, dist, jax.random.key(19))
    assert dist.to_env(action) is action


def test_a_joint_squashes_its_tanh_components_only():
    dist = Joint({"steer": tanh_gaussian([0.3], [0.0], -3.0, 7.0), "gear": Categorical(array([0.0, 1.0]))})
    sent = dist.to_env({"steer": array([0.5]), "gear": jnp.int32(1)})
    np.testing.assert_allclose(sent["steer"], [2.0 + 5.0 * np.tanh(0.5)], rtol=1e-6)
    assert sent["gear"] == 1


# Joint.


@pytest.mark.parametrize("mode", MODES)
def test_joint_is_the_sum_of_its_components(mode):
    old, new = make("joint", 20), make("joint", 30)
    action = jax.jit(Joint.sample)(old, jax.random.key(12))
    assert sorted(action) == sorted(old.components)

    def by_hand(old, new, action):
        components = [(component, new.components[name], action[name]) for name, component in old.components.items()]
        terms = [(p.log_prob(a), p.entropy(), p.kl(q)) for p, q, a in components]
        return [sum(column[1:], start=column[0]) for column in zip(*terms, strict=True)]

    everything = lambda old, new, action: (old.log_prob(action), old.entropy(), old.kl(new))  # noqa: E731
    expected = jax.jit(by_hand)(old, new, action)
    for value, wanted in zip(call(mode, everything, old, new, action), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


def test_joint_of_a_tuple_and_of_a_joint():
    categorical, gaussian = make("categorical", 16), make("gaussian", 17)
    nested = Joint((categorical, Joint({"x": gaussian})))
    action = nested.sample(jax.random.key(13))
    assert isinstance(action, tuple)
    assert action[0].shape == BATCH
    assert action[1]["x"].shape == (*BATCH, 3)
    expected = f64(categorical.log_prob(action[0])) + f64(gaussian.log_prob(action[1]["x"]))
    np.testing.assert_allclose(nested.log_prob(action), expected, rtol=1e-5)
    np.testing.assert_array_equal(nested.mode()[0], categorical.mode())


def test_joint_components_of_one_kind_get_separate_noise():
    gaussian = make("gaussian", 18)
    noise = Joint((gaussian, gaussian)).noise(jax.random.key(14), (500,))
    assert abs(np.corrcoef(f64(noise[0]).ravel(), f64(noise[1]).ravel())[0, 1]) < 0.05


# What holds for every kind.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_eq12_kl_of_equal_distributions_is_exactly_zero_with_zero_gradient(mode, kind):
    dist = make(kind, 19)
    copy = jax.tree.map(lambda leaf: leaf + jnp.zeros_like(leaf), dist)
    assert (np.asarray(call(mode, lambda p, q: p.kl(q), dist, copy)) == 0).all()
    gradient = jax.jit(jax.grad(lambda q, p: jnp.sum(p.kl(q))))(copy, dist)
    assert max(np.abs(f64(leaf)).max() for leaf in jax.tree.leaves(gradient)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_eq12_kl_is_positive_between_different_distributions(kind):
    kl = jax.jit(lambda p, q: p.kl(q))
    assert (np.asarray(kl(make(kind, 21), make(kind, 31))) > 1e-3).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_sample_is_sample_from_noise_and_deterministic(mode, kind):
    dist = make(kind, 22)
    noise = dist.noise(jax.random.key(15))
    sample_from = compiled(mode, type(dist).sample_from)
    drawn = dist.sample(jax.random.key(15)) if mode == "plain" else jax.jit(type(dist).sample)(dist, jax.random.key(15))
    actions = (sample_from(dist, noise), sample_from(dist, noise), drawn)
    for first, second, third in zip(*map(jax.tree.leaves, actions), strict=True):
        np.testing.assert_array_equal(first, second)
        # Noise drawn in the same program may be fused with the action: the last bit may differ.
        np.testing.assert_allclose(
            first, third, rtol=0 if mode == "plain" else 1e-6, atol=0 if mode == "plain" else 1e-6
        )
        assert first.dtype in (jnp.int32, jnp.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_reads_shapes_only_and_one_call_covers_a_rollout(kind):
    dist = make(kind, 23)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dist)
    rollout = shapes.noise(jax.random.key(16), (7,))
    for left, right in zip(
        jax.tree.leaves(rollout), jax.tree.leaves(dist.noise(jax.random.key(16), (7,))), strict=True
    ):
        np.testing.assert_array_equal(left, right)
        assert left.shape[:3] == (7, *BATCH)
        assert len(np.unique(left)) > 0.999 * left.size  # no number is used twice
    actions = jax.jit(jax.vmap(dist.sample_from))(rollout)
    for leaf in jax.tree.leaves(actions):
        assert leaf.shape[:3] == (7, *BATCH)
    assert jax.jit(jax.vmap(dist.log_prob))(actions).shape == (7, *BATCH)


@pytest.mark.parametrize("kind", ["categorical", "masked", "multi", "gaussian"])
def test_mode_is_the_most_probable_action(kind):
    dist = make(kind, 25)
    best = np.asarray(jax.jit(lambda: dist.log_prob(dist.mode()))())
    actions = jax.jit(jax.vmap(dist.sample_from))(dist.noise(jax.random.key(18), (2000,)))
    log_probs = np.asarray(jax.jit(jax.vmap(dist.log_prob))(actions))
    assert (log_probs <= best + 1e-6).all()
