"""rejax's PPO as a worker."""

import jax
from protocol import COMMON, PLAIN_NETWORK, jax_worker, require, serve, whole
from rejax import PPO
from rejax.evaluate import evaluate

DIFFERS = ("config.truncation", "hyperparams.adam_eps", "hyperparams.reward_clip", "network.kernel_init")


def algorithm(spec):
    """Return its PPO with our settings. Its value loss has a factor of one half, so its coefficient is twice ours."""
    config, h, network = spec["config"], spec["hyperparams"], spec["network"]
    require(spec, **COMMON)
    require(spec, hyperparams={"vf_clip_eps": h["clip_eps"]}, network=PLAIN_NETWORK)
    steps = config["num_epochs"] * config["num_minibatches"]
    learning_rate, lr_anneal = h["learning_rate"], h["lr_anneal"]

    def annealed(count):
        return learning_rate * (1.0 - lr_anneal * (count // steps) / whole(spec))

    ppo = PPO.create(
        env=spec["env"],
        agent_kwargs={"hidden_layer_sizes": network["hidden_sizes"], "activation": network["activation"]},
        total_timesteps=config["total_timesteps"],
        eval_freq=config["total_timesteps"],
        skip_initial_evaluation=True,
        num_envs=config["num_envs"],
        num_steps=config["num_steps"],
        num_epochs=config["num_epochs"],
        num_minibatches=config["num_minibatches"],
        learning_rate=annealed,
        gamma=h["gamma"],
        gae_lambda=h["gae_lambda"],
        clip_eps=h["clip_eps"],
        vf_coef=2.0 * h["vf_coef"],
        ent_coef=h["ent_coef"],
        max_grad_norm=h["max_grad_norm"],
        normalize_observations=config["normalize_observations"],
        normalize_rewards=config["scale_rewards"],
        reward_normalization_discount=h["gamma"],
    )
    return ppo.replace(eval_callback=lambda ppo, state, key: ())  # no evaluation within the measured time


def build(spec):
    """Train `num_seeds` seeds in one program. The final returns are those of 128 episodes after training."""
    ppo = algorithm(spec)

    def train(keys):
        if spec["num_seeds"] > 1:
            return jax.vmap(ppo.train)(keys)
        return jax.tree.map(lambda x: jax.numpy.asarray(x)[None], ppo.train(keys[0]))

    def final_return(state):
        limit = ppo.env_params.max_steps_in_episode
        return evaluate(ppo.make_act(state), jax.random.PRNGKey(0), ppo.env, ppo.env_params, 128, limit)[1].mean()

    def final_returns(out):
        if not spec.get("learning"):
            return [float("nan")] * spec["num_seeds"]
        return jax.vmap(final_return)(out[0])

    return jax_worker(train, jax.vmap(jax.random.PRNGKey), final_returns, spec)


if __name__ == "__main__":
    serve("rejax", ("rejax", "jax", "jaxlib", "flax", "optax", "distrax", "gymnax"), build, DIFFERS)
