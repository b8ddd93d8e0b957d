"""Patients of `purejaxppo.training.doctor`: a sound environment, and environments with one fault each."""

import jax
import jax.numpy as jnp
from plain_net import plain

from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.hooks import AuxiliaryLoss
from purejaxppo.networks.protocol import Network


def walk() -> Env:
    """A random walk in three places, terminated with probability 1/8 and truncated after 6 steps."""

    def observe(state):
        return jax.nn.one_hot(state["place"], 3, dtype=jnp.float32)

    def reset(key):
        state = {"place": jax.random.randint(key, (), 0, 3, jnp.int32), "time": jnp.int32(0)}
        return state, observe(state)

    def step(key, state, action):
        move_key, end_key = jax.random.split(key)
        place = (state["place"] + action + jax.random.bernoulli(move_key).astype(jnp.int32)) % 3
        state = {"place": place, "time": state["time"] + 1}
        obs = observe(state)
        ends = jax.random.bernoulli(end_key, 0.125)
        return state, TimeStep(obs, jnp.float32(1), ends, state["time"] >= 6, obs)

    return Env(reset, step, box(0, 1, (3,)), Discrete(2))


def changed(**fields) -> Env:
    """`walk` with fields of its TimeStep replaced by functions of (state before, TimeStep)."""
    env = walk()

    def step(key, state, action):
        after, ts = env.step(key, state, action)
        return after, ts._replace(**{name: value(state, ts) for name, value in fields.items()})

    return env._replace(step=step)


def reuses_a_key() -> Env:
    env = walk()

    def step(key, state, action):
        jump = jax.random.bernoulli(key).astype(jnp.int32)
        return env.step(key, state, (action + jump) % 2)

    return env._replace(step=step)


def fixed_noise(where: str) -> Env:
    """`walk` that draws from a key of its own: at reset, at every step, or from a key in its state that stays."""
    env = walk()
    if where == "reset":
        return env._replace(reset=lambda key: env.reset(jax.random.key(7)))
    if where == "step":
        return env._replace(step=lambda key, state, action: env.step(jax.random.key(7), state, action))

    def reset(key):
        key, inner = jax.random.split(key)
        state, obs = env.reset(inner)
        return (state, jax.random.key_data(key)), obs

    def step(key, state, action):
        after, ts = env.step(jax.random.wrap_key_data(state[1]), state[0], action)
        return (after, state[1]), ts

    return env._replace(reset=reset, step=step)


def moving_key() -> Env:
    """`walk` with its key in the state, which it splits in every step."""
    env = fixed_noise("state")

    def step(key, state, action):
        inner, use = jax.random.split(jax.random.wrap_key_data(state[1]))
        (after, _), ts = env.step(key, (state[0], jax.random.key_data(use)), action)
        return (after, jax.random.key_data(inner)), ts

    return env._replace(step=step)


def raises() -> Env:
    def step(key, state, action):
        raise KeyError("the pole")

    return walk()._replace(step=step)


def endless() -> Env:
    return changed(terminated=lambda state, ts: jnp.bool_(False), truncated=lambda state, ts: jnp.bool_(False))


def predicts_by_product() -> tuple[Network, AuxiliaryLoss]:
    """A network for `walk` and a loss that selects a prediction with a one-hot product.

    jaxlib 0.10.2 compiles its gradient wrong on a CPU.
    """
    network = plain(walk())

    def init(key):
        first, second = jax.random.split(key)
        return {"plain": network.init(first), "choices": jax.random.normal(second, (3, 2 * 3))}

    def apply(params, *inputs):
        return network.apply(params["plain"], *inputs)

    def loss(params, batch, h):
        outputs = (batch.obs @ params["choices"]).reshape(*batch.obs.shape[:2], 2, 3)
        chosen = (outputs * jax.nn.one_hot(batch.action, 2, dtype=jnp.float32)[..., None]).sum(-2)
        return jnp.square(chosen - batch.next_obs).mean()

    return network._replace(init=init, apply=apply), loss


@jax.custom_vjp
def other_gradient_under_jit(x):
    """The identity; under `jit` its gradient is 1.1 times too large."""
    return x


other_gradient_under_jit.defvjp(
    lambda x: (x, None),
    lambda _, g: (g if jax.config.jax_disable_jit else 1.1 * g,),  # type: ignore[attr-defined]
)


def noisy_loss(params, batch, h, *, reuses_key: bool, wrong_gradient: bool):
    """An auxiliary loss that adds noise to the first weights of the critic; it may have one fault or two."""
    first, second = jax.random.split(jax.random.key(0))
    weights = params["critic_w0"]
    weights = other_gradient_under_jit(weights) if wrong_gradient else weights
    noise = jax.random.normal(first, weights.shape)
    more = jax.random.normal(first if reuses_key else second, weights.shape)
    return jnp.square(weights + 0.1 * noise + 0.1 * more).mean()
