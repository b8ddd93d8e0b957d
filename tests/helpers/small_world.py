"""The small MDP of docs/derivation.md and its examples: exact, in float64 NumPy unless the library is tested.

`tests/docs/test_derivation.py` tests statements on it, `tests/docs/test_equations.py` the figures of the document.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle

from purejaxppo.functional import objectives as obj

# Five states, three actions, a random softmax policy -----------------------------------------------------------------

MDP = oracle.random_mdp(0)
GAMMA = MDP.gamma
THETA = np.random.default_rng(5).normal(size=MDP.r.shape)
PI = oracle.softmax(THETA)
V, Q, A = oracle.state_values(MDP, PI), oracle.action_values(MDP, PI), oracle.advantages(MDP, PI)
RHO = oracle.visitation(MDP, PI)
VALUE_ERROR = np.random.default_rng(4).normal(size=len(V))


def J(theta, mdp=MDP):
    """J (1) as a function of the logits."""
    return oracle.expected_return(mdp, oracle.softmax(theta))


GRAD_J = oracle.central_difference(J, THETA)


def policy_gradient(factor, weight=RHO):
    """(1 - g)^-1 E_{s ~ weight, a ~ pi}[grad log pi(a|s) factor(s, a)]."""
    return oracle.score_expectation(weight, PI, factor) / (1 - GAMMA)


def cosine(x, y):
    """The cosine of the angle between two arrays."""
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))


def random_policies(num=200):
    """Pairs of policies from near to far."""
    rng = np.random.default_rng(7)
    for _ in range(num):
        old = rng.normal(size=MDP.r.shape)
        yield oracle.softmax(old), oracle.softmax(old + rng.uniform(0.01, 3.0) * rng.normal(size=MDP.r.shape))


def cpi(theta, weight=RHO):
    """L^CPI (5) as an exact expectation over states ~ weight and actions ~ pi_old."""
    ratio = oracle.softmax(theta) / PI
    return float(weight @ (PI * ratio * A).sum(axis=1))


def gae_bias(pi, error, lam):
    """C4: -e(s) + g (1 - lam) sum_l (g lam)^l E[e(s_{t+l+1}) | s, a], [S, A]."""
    later = np.linalg.solve(np.eye(len(error)) - GAMMA * lam * oracle.transition_under(MDP, pi), error)
    return -error[:, None] + GAMMA * (1 - lam) * MDP.P @ later


# A state that the old policy hardly visits (C9) ----------------------------------------------------------------------


def rare_state():
    """Return the MDP, the old and the new policy: one change leads to the rare state, another makes it bad."""
    P = np.zeros((3, 2, 3))
    P[0, 0, 2] = P[0, 1, 1] = P[1, :, 1] = P[2, :, 2] = 1.0  # 0 the start, 1 the rare state, 2 the end
    r = np.array([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]])
    old = np.array([[0.95, 0.05], [0.5, 0.5], [0.5, 0.5]])
    new = np.array([[0.947, 0.053], [0.3, 0.7], [0.5, 0.5]])
    return oracle.MDP(P, r, np.array([1.0, 0.0, 0.0]), 0.02), old, new


# Two samples that share one parameter (E6) ---------------------------------------------------------------------------


def two_samples(surrogate, steps=3300, learning_rate=0.005):
    """Gradient ascent on two samples of A = 1 that share one parameter; returns the ratios [steps + 1, 2].

    Two states with two actions each, log pi(a|s) = log sigmoid(b_s + f_s theta): a rare action that reacts strongly,
    a common one that reacts weakly.
    """
    bias, slope = jnp.asarray([np.log(0.05 / 0.95), 0.0], jnp.float32), jnp.asarray([10.0, 0.25])
    old, advantage = jax.nn.log_sigmoid(bias), jnp.ones(2)

    def ratio(theta):
        return obj.importance_ratio(jax.nn.log_sigmoid(bias + slope * theta), old)

    def kl(theta):
        p, x = jnp.exp(old), bias + slope * theta
        return p * (old - jax.nn.log_sigmoid(x)) + (1 - p) * (jnp.log1p(-p) - jax.nn.log_sigmoid(-x))

    def ascend(theta, _):
        gradient = jax.grad(lambda t: jnp.mean(surrogate(ratio(t), advantage, kl(t))))(theta)
        return theta + learning_rate * gradient, ratio(theta)

    theta, ratios = jax.lax.scan(ascend, jnp.float32(0.0), length=steps)
    return np.concatenate([ratios, ratio(theta)[None]])


def clip(w, a, kl):
    """The clipped surrogate (7), ε = 0.2."""
    return obj.clipped_surrogate(w, a, 0.2)


def price(w, a, kl):
    """The KL-penalized surrogate (8), β = 100."""
    return obj.kl_penalized_surrogate(w, a, kl, 100.0)


# A pair of categorical distributions (C8) ----------------------------------------------------------------------------

OLD_LOGITS = jnp.asarray([0.3, -1.0, 0.8, 0.0])
NEW_LOGITS = OLD_LOGITS + jnp.asarray([0.5, 0.2, -0.7, 0.1])


def exact_kl(logits):
    """KL(old || new) as a function of the new logits."""
    old = jax.nn.log_softmax(OLD_LOGITS)
    return jnp.sum(jnp.exp(old) * (old - jax.nn.log_softmax(logits)))


def expectation(estimator):
    """E_{a ~ old}[k(log r(a))] as a function of the new logits, by enumeration."""
    old = jax.nn.log_softmax(OLD_LOGITS)
    return lambda logits: jnp.sum(jnp.exp(old) * estimator(jax.nn.log_softmax(logits) - old))
