"""Slow reference forms of the library in plain NumPy float64, written from the formulas.

Nothing here imports JAX or the project. Sums of the formulas are loops. Indices: s state, a action, t time; r[s, a]
reward, P[s, a, s'] transition probability, rho0[s] start distribution, pi[s, a] policy.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Tabular MDP: closed forms ----------------------------------------------------------------------------------


class MDP(NamedTuple):
    """A finite MDP that never ends."""

    P: np.ndarray  # [S, A, S]
    r: np.ndarray  # [S, A]
    rho0: np.ndarray  # [S]
    gamma: float


def random_mdp(seed: int, num_states: int = 5, num_actions: int = 3, gamma: float = 0.8) -> MDP:
    """Draw concentrated transitions, normal rewards, and a start distribution far from the stationary one."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(num_states, 0.3), size=(num_states, num_actions))
    r = rng.normal(size=(num_states, num_actions))
    rho0 = rng.dirichlet(np.full(num_states, 0.5))
    return MDP(P, r, rho0, gamma)


def softmax(theta: np.ndarray) -> np.ndarray:
    """pi[..., a] = exp(theta_a) / sum_b exp(theta_b)."""
    e = np.exp(theta - theta.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def transition_under(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    """P_pi[s, s'] = sum_a pi(a|s) P(s'|s, a)."""
    return np.einsum("sa,sax->sx", pi, mdp.P)


def reward_under(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    """r_pi[s] = sum_a pi(a|s) r(s, a)."""
    return (pi * mdp.r).sum(axis=1)


def state_values(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    """V = (I - g P_pi)^-1 r_pi."""
    identity = np.eye(len(mdp.rho0))
    return np.linalg.solve(identity - mdp.gamma * transition_under(mdp, pi), reward_under(mdp, pi))


def action_values(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    """Q[s, a] = r(s, a) + g sum_s' P(s'|s, a) V(s')."""
    return mdp.r + mdp.gamma * mdp.P @ state_values(mdp, pi)


def advantages(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    """A[s, a] = Q(s, a) - V(s)."""
    return action_values(mdp, pi) - state_values(mdp, pi)[:, None]


def visitation(mdp: MDP, pi: np.ndarray) -> np.ndarray:
    """rho = (1 - g) (I - g P_pi)^-T rho0, a distribution over states."""
    identity = np.eye(len(mdp.rho0))
    return (1 - mdp.gamma) * np.linalg.solve((identity - mdp.gamma * transition_under(mdp, pi)).T, mdp.rho0)


def expected_return(mdp: MDP, pi: np.ndarray) -> float:
    """J = sum_s rho0(s) V(s)."""
    return float(mdp.rho0 @ state_values(mdp, pi))


def optimal_return(mdp: MDP, iterations: int = 2000) -> float:
    """J* by value iteration."""
    v = np.zeros(len(mdp.rho0))
    for _ in range(iterations):
        v = (mdp.r + mdp.gamma * mdp.P @ v).max(axis=1)
    return float(mdp.rho0 @ v)


def score(pi: np.ndarray) -> np.ndarray:
    """d log pi(a|s) / d theta[x, b] of the softmax policy, [s, a, x, b]: 1{x = s} (1{b = a} - pi(b|s))."""
    num_states, num_actions = pi.shape
    out = np.zeros((num_states, num_actions, num_states, num_actions))
    for s in range(num_states):
        for a in range(num_actions):
            out[s, a, s] = -pi[s]
            out[s, a, s, a] += 1.0
    return out


def score_expectation(weight: np.ndarray, pi: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """sum_s w(s) sum_a pi(a|s) [grad log pi(a|s)] factor(s, a), like theta."""
    return np.einsum("s,sa,saxb,sa->xb", weight, pi, score(pi), factor)


def fisher(weight: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """F = sum_s w(s) sum_a pi(a|s) grad log pi(a|s) grad log pi(a|s)^T, [S A, S A]."""
    g = score(pi).reshape(*pi.shape, -1)
    return np.einsum("s,sa,sap,saq->pq", weight, pi, g, g)


def mean_kl(weight: np.ndarray, old: np.ndarray, new: np.ndarray) -> float:
    """sum_s w(s) KL(old(.|s) || new(.|s)) in nats."""
    return float(weight @ (old * np.log(old / new)).sum(axis=1))


def total_variation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """TV[s] = half the sum over a of |new - old|."""
    return 0.5 * np.abs(new - old).sum(axis=1)


def central_difference(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Gradient of f at x, entry by entry: (f(x + h e) - f(x - h e)) / 2h."""
    grad = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        e = np.zeros_like(x)
        e[i] = h
        grad[i] = (f(x + e) - f(x - e)) / (2 * h)
    return grad


def draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index per row of probabilities [n, k], by inverse CDF."""
    cumulative = probabilities.cumsum(axis=1)
    index = (rng.random((len(probabilities), 1)) > cumulative).sum(axis=1)
    return np.minimum(index, probabilities.shape[1] - 1)


def simulate(
    mdp: MDP, pi: np.ndarray, num: int, horizon: int, rng: np.random.Generator, first=None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`num` rollouts: states [horizon + 1, num], actions and rewards [horizon, num]; `first` = (s0, a0) or None."""
    states, actions, rewards = [draw(np.tile(mdp.rho0, (num, 1)), rng)], [], []
    if first is not None:
        states = [np.full(num, first[0])]
    for t in range(horizon):
        s = states[-1]
        a = np.full(num, first[1]) if first is not None and t == 0 else draw(pi[s], rng)
        actions.append(a)
        rewards.append(mdp.r[s, a])
        states.append(draw(mdp.P[s, a], rng))
    return np.array(states), np.array(actions), np.array(rewards)


# Advantages and targets by double loops, one environment at a time ------------------------------------------


def segment_end(t: int, terminated: np.ndarray, truncated: np.ndarray) -> int:
    """The last step of t's episode inside the segment."""
    end = t
    while end < len(terminated) - 1 and not (terminated[end] or truncated[end]):
        end += 1
    return end


def n_step_return(rewards, next_values, terminated, truncated, gamma: float, t: int, n: int) -> float:
    """sum_{l<m} g^l r_{t+l} + g^m V(s'_{t+m-1}), m = n or fewer where the episode or segment ends."""
    last = min(t + n - 1, segment_end(t, terminated, truncated))
    total = 0.0
    for i in range(t, last + 1):
        total += gamma ** (i - t) * rewards[i]
    if not terminated[last]:
        total += gamma ** (last - t + 1) * next_values[last]
    return total


def gae_double_sum(rewards, values, next_values, terminated, truncated, gamma: float, lam: float) -> np.ndarray:
    """A_t = sum_l (g lam)^l delta_{t+l} up to the end of the episode or segment, [T]."""
    out = np.zeros(len(rewards))
    for t in range(len(rewards)):
        for i in range(t, segment_end(t, terminated, truncated) + 1):
            bootstrap = 0.0 if terminated[i] else next_values[i]
            out[t] += (gamma * lam) ** (i - t) * (rewards[i] + gamma * bootstrap - values[i])
    return out


def monte_carlo(rewards, next_values, terminated, truncated, gamma: float) -> np.ndarray:
    """Discounted rewards to the end of the episode, plus the bootstrap value unless it terminated, [T]."""
    T = len(rewards)
    return np.array([n_step_return(rewards, next_values, terminated, truncated, gamma, t, T) for t in range(T)])


def n_step(rewards, next_values, terminated, truncated, gamma: float, n: int) -> np.ndarray:
    """The n-step return of every t, [T]."""
    T = len(rewards)
    return np.array([n_step_return(rewards, next_values, terminated, truncated, gamma, t, n) for t in range(T)])


def lambda_return(rewards, next_values, terminated, truncated, gamma: float, lam: float) -> np.ndarray:
    """(1 - lam) sum_{n<L} lam^{n-1} R^(n) + lam^{L-1} R^(L), L steps from t to the end, [T]."""
    out = np.zeros(len(rewards))
    for t in range(len(rewards)):
        length = segment_end(t, terminated, truncated) - t + 1
        for n in range(1, length + 1):
            weight = lam ** (n - 1) * ((1 - lam) if n < length else 1.0)
            out[t] += weight * n_step_return(rewards, next_values, terminated, truncated, gamma, t, n)
    return out


def per_environment(fn: Callable[..., np.ndarray], *columns: np.ndarray, **settings) -> np.ndarray:
    """`fn` over each column of [T, N] arrays; returns [T, N]."""
    num_envs = columns[0].shape[1]
    return np.stack([fn(*(c[:, n] for c in columns), **settings) for n in range(num_envs)], axis=1)


# Surrogates and losses, sample by sample ---------------------------------------------------------------------


def clipped_piecewise(r: float, A: float, low: float, high: float, dual: float = np.inf) -> float:
    """(7) by cases: min(r, high) A for A > 0; max(r, low) A for A < 0, with r at most `dual`."""
    if A > 0:
        return A * high if r > high else A * r
    if A < 0:
        return A * low if r < low else (A * dual if r > dual else A * r)
    return 0.0


def clipped_gradient(r: float, A: float, low: float, high: float, dual: float = np.inf) -> float:
    """d/dr of `clipped_piecewise`, except at its kinks."""
    if A > 0:
        return A if r < high else 0.0
    return A if low < r < dual else 0.0


def clipped_value_error(v: float, target: float, old: float, c: float) -> float:
    """(11) with a clip range c: the larger of the unclipped and the clipped squared error."""
    clipped = old + c if v > old + c else (old - c if v < old - c else v)
    return max((v - target) ** 2, (clipped - target) ** 2)


# One PPO iteration, the golden update ------------------------------------------------------------------------


class Rollout(NamedTuple):
    """Input of the iteration; minibatch indices count its rows as t * N + n."""

    obs: np.ndarray  # [T, N, D]
    actions: np.ndarray  # [T, N] int, or [T, N, A] float
    rewards: np.ndarray  # [T, N]
    terminated: np.ndarray  # [T, N] bool
    truncated: np.ndarray  # [T, N] bool
    final_obs: np.ndarray  # [T, N, D], what step t led to, before any reset


class Settings(NamedTuple):
    """Hyperparameters of the iteration; `learning_rate` is annealed already."""

    objective: str = "clip"  # "clip", "kl" or "cpi"
    normalize_advantages: bool = True
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    clip_asymmetry: float = 1.0  # the ratio is clipped to [1 - clip_eps, 1 + clip_asymmetry * clip_eps]
    dual_clip: float = np.inf
    beta: float = 1.0
    vf_coef: float = 0.5
    vf_clip_eps: float = np.inf
    ent_coef: float = 0.0
    max_grad_norm: float = 0.5
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-5


Params = dict[str, np.ndarray]
"""actor_w0, actor_b0, actor_w1, ... (the last layer is linear), critic_w0, ..., and log_std [A] if Gaussian."""


def mlp(params: Params, name: str, x: np.ndarray) -> np.ndarray:
    """x W0 + b0, tanh, ..., x W_last + b_last; x [..., D]."""
    depth = sum(key.startswith(f"{name}_w") for key in params)
    for i in range(depth):
        x = x @ params[f"{name}_w{i}"] + params[f"{name}_b{i}"]
        x = np.tanh(x) if i < depth - 1 else x
    return x


def critic(params: Params, obs: np.ndarray) -> np.ndarray:
    """V(s) [...] of obs [..., D]."""
    return mlp(params, "critic", obs)[..., 0]


def policy_terms(
    params: Params, old: Params, obs: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log pi(a|s), KL(pi_old(.|s) || pi(.|s)) and H(pi(.|s)) of each sample [B]."""
    out, old_out = mlp(params, "actor", obs), mlp(old, "actor", obs)
    if "log_std" not in params:
        pi, pi_old = softmax(out), softmax(old_out)
        log_prob = np.log(pi[np.arange(len(obs)), actions])
        return log_prob, (pi_old * np.log(pi_old / pi)).sum(-1), -(pi * np.log(pi)).sum(-1)
    std, old_std = np.exp(params["log_std"]), np.exp(old["log_std"])
    log_prob = (-((actions - out) ** 2) / (2 * std**2) - np.log(std * np.sqrt(2 * np.pi))).sum(-1)
    kl = (np.log(std / old_std) + (old_std**2 + (old_out - out) ** 2) / (2 * std**2) - 0.5).sum(-1)
    entropy = np.full(len(obs), np.log(std * np.sqrt(2 * np.pi * np.e)).sum())
    return log_prob, kl, entropy


def minibatch_loss(params: Params, old: Params, batch: dict[str, np.ndarray], c: Settings) -> float:
    """(13) over one minibatch: -mean L + c_v mean (V - R)^2 - c_ent mean H, with the advantages of the batch.

    (V - R)^2 is max((V - R)^2, (clip(V, V_old +- vf_clip_eps) - R)^2); L of (7) is no less than dual_clip A for A < 0.
    """
    log_prob, kl, entropy = policy_terms(params, old, batch["obs"], batch["actions"])
    r, A = np.exp(log_prob - batch["old_log_prob"]), batch["advantages"]
    if c.objective == "clip":
        bounds = (1 - c.clip_eps, 1 + c.clip_asymmetry * c.clip_eps, c.dual_clip)
        surrogate = np.array([clipped_piecewise(*x, *bounds) for x in zip(r, A, strict=True)])
    else:
        surrogate = r * A - (c.beta * kl if c.objective == "kl" else 0.0)
    values, old_values = critic(params, batch["obs"]), critic(old, batch["obs"])
    rows = zip(values, batch["targets"], old_values, strict=True)
    error = np.array([clipped_value_error(*row, c.vf_clip_eps) for row in rows])
    return float(-surrogate.mean() + c.vf_coef * error.mean() - c.ent_coef * entropy.mean())


def loss_gradient(params: Params, old: Params, batch: dict[str, np.ndarray], c: Settings) -> Params:
    """Gradient of the loss by central differences, one parameter at a time."""

    def loss_with(name: str) -> Callable[[np.ndarray], float]:
        return lambda x: minibatch_loss(params | {name: x}, old, batch, c)

    return {name: central_difference(loss_with(name), x) for name, x in params.items()}


def clip_by_global_norm(grad: Params, max_norm: float) -> tuple[Params, float]:
    """Scale all gradients by one factor, so that their joint norm is at most `max_norm`; return the old norm, too."""
    norm = float(np.sqrt(sum((g**2).sum() for g in grad.values())))
    return {name: g * min(1.0, max_norm / norm) for name, g in grad.items()}, norm


def adam_step(params: Params, mu: Params, nu: Params, grad: Params, step: int, c: Settings) -> tuple:
    """Step number `step` = 1, 2, ... of Adam with bias correction; eps is added to the root."""
    mu = {name: c.adam_b1 * mu[name] + (1 - c.adam_b1) * g for name, g in grad.items()}
    nu = {name: c.adam_b2 * nu[name] + (1 - c.adam_b2) * g**2 for name, g in grad.items()}
    out = {}
    for name, x in params.items():
        mu_hat = mu[name] / (1 - c.adam_b1**step)
        nu_hat = nu[name] / (1 - c.adam_b2**step)
        out[name] = x - c.learning_rate * mu_hat / (np.sqrt(nu_hat) + c.adam_eps)
    return out, mu, nu


class Golden(NamedTuple):
    """Result of an iteration."""

    params: Params
    mu: Params  # Adam's first moment
    nu: Params  # Adam's second moment
    advantages: np.ndarray  # [T, N], not normalised
    targets: np.ndarray  # [T, N]
    losses: list[float]  # of each minibatch, before its step
    grad_norms: list[float]  # of each minibatch, before clipping


def golden_data(old: Params, rollout: Rollout, c: Settings) -> dict[str, np.ndarray]:
    """What the epochs read, one row per t * N + n, all of it from the old parameters."""
    values, next_values = critic(old, rollout.obs), critic(old, rollout.final_obs)
    columns = (rollout.rewards, values, next_values, rollout.terminated, rollout.truncated)
    advantage = per_environment(gae_double_sum, *columns, gamma=c.gamma, lam=c.gae_lambda)
    data = {"obs": rollout.obs, "actions": rollout.actions, "advantages": advantage}
    data["targets"] = advantage + values  # of the raw advantages (E7)
    data = {name: x.reshape(-1, *x.shape[2:]) for name, x in data.items()}
    data["old_log_prob"] = policy_terms(old, old, data["obs"], data["actions"])[0]
    return data


def golden_update(params: Params, rollout: Rollout, minibatches: list[list[np.ndarray]], c: Settings) -> Golden:
    """One iteration: targets from the old parameters, then a clipped Adam step for each of minibatches[epoch][i].

    A minibatch is an array of row numbers t * N + n. Adam starts from zero moments.
    """
    old = {name: np.asarray(x, np.float64) for name, x in params.items()}
    rollout = Rollout(*(x.astype(np.float64) if x.dtype.kind == "f" else x for x in map(np.asarray, rollout)))
    data = golden_data(old, rollout, c)
    params, mu, nu = old, {n: 0 * x for n, x in old.items()}, {n: 0 * x for n, x in old.items()}
    losses, norms = [], []
    for index in (index for epoch in minibatches for index in epoch):
        batch = {name: x[index] for name, x in data.items()}
        if c.normalize_advantages:
            A = batch["advantages"]
            batch["advantages"] = (A - A.mean()) / (A.std() + 1e-8)
        losses.append(minibatch_loss(params, old, batch, c))
        grad, norm = clip_by_global_norm(loss_gradient(params, old, batch, c), c.max_grad_norm)
        norms.append(norm)
        params, mu, nu = adam_step(params, mu, nu, grad, len(losses), c)
    shape = rollout.rewards.shape
    return Golden(params, mu, nu, data["advantages"].reshape(shape), data["targets"].reshape(shape), losses, norms)
