"""Learning results over seeds, for test_learning.py and as tables (`python tests/learning.py --help`)."""

import argparse
import dataclasses
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import purejaxppo as pp
from purejaxppo.analysis.statistics import interquartile_mean, stratified_interval
from purejaxppo.config.schema import Config, Hyperparams, Run
from purejaxppo.config.toml import load_toml
from purejaxppo.networks.actor_critic import make_network

ROOT = Path(__file__).parents[1]
EPISODES = 128

# Published or required lower bounds of the interquartile mean, by the name of a file in configs/.
GATES = {"cartpole": 490.0, "acrobot": -90.0, "pendulum": -250.0, "catch": 0.95}

# Every objective with the controls that suit it, on CartPole: name, static settings, {label: hyperparameters}.
# CPI has no term that keeps it near the old policy, so it is listed only with a control and with fewer epochs.
EARLY, RATE, CLIP = {"target_kl": 0.02}, {"lr_target_kl": 0.01}, {"clip_target_kl": 0.01}
TIGHT = {"target_kl": 0.01}  # with 4 epochs, as for the others, half of the seeds of CPI miss the bound
PENALTY = {"beta_target_kl": 0.01}
COMBINATIONS: list[tuple[str, dict, dict[str, dict]]] = [
    (
        "clip",
        {},
        {
            "": {},
            "early stop": EARLY,
            "KL-driven learning rate": RATE,
            "KL-driven clip range": CLIP,
            "early stop, learning rate and clip range": EARLY | RATE | CLIP,
            "dual clip 3": {"dual_clip": 3.0},
            "upper range 1.4 ε": {"clip_asymmetry": 1.4},
            "value clip 0.5": {"vf_clip_eps": 0.5},
        },
    ),
    (
        "kl",
        {"objective": "kl"},
        {
            "adaptive β": PENALTY,
            "fixed β = 3": {"beta": 3.0},
            "adaptive β, early stop": PENALTY | EARLY,
            "adaptive β, early stop and learning rate": PENALTY | EARLY | RATE,
        },
    ),
    (
        "cpi, 2 epochs",
        {"objective": "cpi", "num_epochs": 2},
        {"early stop at 0.01": TIGHT, "early stop at 0.01 and learning rate": TIGHT | RATE},
    ),
    ("trpo", {"policy_step": "trpo", "num_epochs": 10}, {"": {"trpo_delta": 0.01}}),
    ("clip, Monte-Carlo targets", {"targets": "monte_carlo"}, {"": {}}),
    ("clip, 16-step targets", {"targets": "n_step", "n_step": 16}, {"": {}}),
    ("clip, TD(λ) targets", {"targets": "td_lambda"}, {"": {"value_lambda": 0.9}}),
    ("clip, advantages recomputed each epoch", {"recompute_advantages": True}, {"": {}}),
]


# Tasks that need a recurrent state, masks, or other action spaces: file in configs/, changes, number of seeds, and the
# range of the interquartile mean. A feed-forward network cannot solve the tasks that need a recurrent state.
FEED_FORWARD = {"network": {"kind": "mlp"}}
OTHER_TASKS = {
    "MemoryChain, GRU": ("memory_chain_gru", {}, 8, 0.9, 1.0),
    "MemoryChain, feed-forward": ("memory_chain_gru", FEED_FORWARD, 8, -0.2, 0.2),
    "CartPole without velocities, GRU": ("cartpole_positions_gru", {}, 8, 400.0, 500.0),
    "CartPole without velocities, feed-forward": ("cartpole_positions_gru", FEED_FORWARD, 8, 0.0, 200.0),
    "Pendulum, tanh-Gaussian": ("pendulum_tanh", {}, 8, -250.0, 0.0),
    "Nim, masked": ("nim_masked", {}, 8, 0.99, 1.0),
    "King, MultiDiscrete": ("king_multidiscrete", {}, 8, -3.95, -3.5),
    "CartPole in bfloat16": ("cartpole", {"network": {"compute_dtype": "bfloat16"}}, 8, 490.0, 500.0),
    "Pendulum in bfloat16": ("pendulum", {"network": {"compute_dtype": "bfloat16"}}, 8, -250.0, 0.0),
    "Breakout-MinAtar, convolutions": ("minatar_breakout_cnn", {}, 4, 14.0, np.inf),
    "Asterix-MinAtar, convolutions": ("minatar_asterix_cnn", {}, 4, 8.0, np.inf),
}


# Functions handed to make_ppo, next to the default: task, function of `hooked`, steps, learning rate, and the range
# of the interquartile mean. Deep sea pays 0.99 for one of 2²⁰ sequences of actions, and less than 0 for parts of it. On
# CartPole the functions change no result (docs/results.md), so that these rows only guard against a loss of learning.
RECIPES = {
    "Deep sea 20, PPO alone": ("deep sea", "", 300_000, 1e-3, -0.01, 0.0),
    "Deep sea 20, random network distillation": ("deep sea", "rnd", 300_000, 1e-3, 0.98, 1.0),
    "CartPole-v1, Adam": ("CartPole-v1", "", 100_000, 2.5e-3, 450.0, 500.0),
    "CartPole-v1, muon": ("CartPole-v1", "muon", 100_000, 2.5e-3, 450.0, 500.0),
    "CartPole-v1, one torso": ("CartPole-v1", "torso", 200_000, 1e-3, 475.0, 500.0),
    "CartPole-v1, one torso, next-observation prediction": ("CartPole-v1", "prediction", 200_000, 1e-3, 475.0, 500.0),
}
RECIPE_SEEDS = 8


class SuiteGate(NamedTuple):
    """What the median of the seeds must reach, and by which policy."""

    at_least: float
    greedy: bool = True
    episodes: int = EPISODES  # per seed; short ones vary more


# Lower bounds of the median over SUITE_SEEDS seeds, by the name of a file in configs/suites/. The greedy policies of
# Craftax and Snake stand still or go in circles.
SUITE_GATES = {
    "pgx_tic_tac_toe": SuiteGate(0.9, episodes=1000),
    "xland_doorkey_5x5": SuiteGate(0.95),
    "navix_doorkey_5x5": SuiteGate(0.99),
    "gymnasium_cartpole": SuiteGate(500.0),
    "jaxmarl_simple_spread": SuiteGate(-21.0, episodes=768),
    "jaxmarl_smax_3m": SuiteGate(1.5, episodes=768),
    "brax_inverted_pendulum": SuiteGate(1000.0),
    "jumanji_snake": SuiteGate(14.0, greedy=False),
    "playground_cartpole_balance": SuiteGate(990.0),
    "craftax_classic": SuiteGate(4.0, greedy=False, episodes=256),
}
SUITE_SEEDS = 3


class Result(NamedTuple):
    """Mean return of each seed over fresh episodes, for the greedy and for the sampled policy, [S] each."""

    greedy: np.ndarray
    sampled: np.ndarray
    seconds: float  # training of all settings together, without compilation
    compile_seconds: float

    @property
    def iqm(self) -> float:
        return float(interquartile_mean(self.greedy))

    @property
    def interval(self) -> tuple[float, float]:
        _, low, high = stratified_interval(self.greedy)
        return float(low), float(high)


def changed(run: Run, config: dict | None = None, hyperparams: dict | None = None, network: dict | None = None) -> Run:
    """Return the run with some of its settings replaced."""
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, **(config or {})),
        network=dataclasses.replace(run.network, **(network or {})),
        hyperparams=run.hyperparams._replace(**(hyperparams or {})),
    )


def shipped(name: str) -> Run:
    """Return the run of a file in configs/."""
    return load_toml(ROOT / "configs" / f"{name}.toml")


def learn_settings(run: Run, settings: list[Hyperparams], num_seeds: int) -> list[Result]:
    """Train every setting with every seed as one program, and evaluate each."""
    env = pp.make(run.env, **run.env_params)
    return learn_algorithm(pp.make_ppo(env, make_network(env, run.network), run.config), settings, num_seeds, run.seed)


def learn_algorithm(algo: pp.Algorithm, settings: list[Hyperparams], num_seeds: int, seed: int = 0) -> list[Result]:
    """Train an algorithm with every setting and every seed as one program, and evaluate each."""
    keys, eval_keys = (jax.random.split(jax.random.key(i), num_seeds) for i in (seed, 1_000_003))
    stacked = Hyperparams(*(jnp.asarray(x, jnp.float32) for x in zip(*settings, strict=True)))

    def over_both(f):
        return jax.jit(jax.vmap(jax.vmap(f, (0, None)), (None, 0)))

    with jax.debug_key_reuse(False):  # JAX's reuse check counts the keys that a vmapped scan passes on as used
        start = time.perf_counter()
        program = over_both(lambda key, h: pp.train(algo, key, h)[0]).lower(keys, stacked).compile()
        compiled = time.perf_counter()
        states = jax.block_until_ready(program(keys, stacked))
        end = time.perf_counter()

        def returns(greedy: bool) -> np.ndarray:
            def one(state, key):
                return pp.evaluate(algo, state, key, EPISODES, greedy, max_steps=5000).returns.mean()

            return np.asarray(jax.jit(jax.vmap(jax.vmap(one), (0, None)))(states, eval_keys))

        greedy, sampled = returns(True), returns(False)
    return [Result(g, s, end - compiled, compiled - start) for g, s in zip(greedy, sampled, strict=True)]


def learn(run: Run | str, num_seeds: int, **changes: dict) -> Result:
    """Train `num_seeds` seeds in one program and evaluate each; `run` may be the name of a file in configs/."""
    run = changed(shipped(run) if isinstance(run, str) else run, **changes)
    return learn_settings(run, [run.hyperparams], num_seeds)[0]


def combination(index: int, num_seeds: int, total_timesteps: int = 300_000) -> dict[str, Result]:
    """Return the results of one entry of COMBINATIONS by label."""
    name, config, variants = COMBINATIONS[index]
    run = changed(shipped("cartpole"), config | {"total_timesteps": total_timesteps})
    settings = [run.hyperparams._replace(**h) for h in variants.values()]
    labels = [f"{name}, {label}" if label else name for label in variants]
    return dict(zip(labels, learn_settings(run, settings, num_seeds), strict=True))


def hooked(task: str, which: str, steps: int, learning_rate: float) -> tuple[pp.Algorithm, Hyperparams]:
    """Return an algorithm of RECIPES with the functions of docs/recipes.md, and its hyperparameters."""
    if (folder := str(ROOT / "docs" / "recipes")) not in sys.path:
        sys.path.append(folder)
    from deep_sea import deep_sea
    from next_observation import next_observation
    from rnd import rnd

    env = deep_sea(20) if task == "deep sea" else pp.make(task)
    config = Config(num_envs=16, num_steps=40, total_timesteps=steps, num_devices=1)
    network, loss = next_observation(env) if which in ("torso", "prediction") else (pp.mlp(env), None)
    functions = {"rnd": {"intrinsic": rnd()}, "muon": {"optimizer": muon}, "prediction": {"auxiliary_loss": loss}}
    algo = pp.make_ppo(env, network, config, **functions.get(which, {}))
    return algo, Hyperparams(learning_rate=learning_rate, ent_coef=0.01)


def muon(h: Hyperparams) -> optax.GradientTransformation:
    """Return orthogonal steps of matrices, and Adam for biases."""
    steps = optax.contrib.muon(4.0 * h.learning_rate, adam_learning_rate=h.learning_rate)
    return optax.chain(optax.clip_by_global_norm(h.max_grad_norm), steps)


def recipe(label: str, num_seeds: int = RECIPE_SEEDS) -> Result:
    """Return the result of an entry of RECIPES."""
    algo, h = hooked(*RECIPES[label][:4])
    return learn_algorithm(algo, [h], num_seeds)[0]


def suite_scores(name: str, num_seeds: int = SUITE_SEEDS) -> np.ndarray:
    """Train the seeds 0, 1, ... of a file in configs/suites/ one by one; mean returns of the policy of its gate [S].

    One device, so that the results do not depend on the number of cores. Environments on the host cannot be mapped over
    seeds, and the others share one compiled program.
    """
    gate, run = SUITE_GATES[name], changed(shipped(f"suites/{name}"), {"num_devices": 1})
    env = pp.make(run.env, **run.env_params)
    algo = pp.make_ppo(env, make_network(env, run.network), run.config)
    scores = []
    for seed in range(num_seeds):
        state, _ = pp.train(algo, seed, run.hyperparams)
        played = pp.evaluate(algo, state, 1_000_003 + seed, gate.episodes, gate.greedy)
        scores.append(float(played.returns.mean()))
    return np.asarray(scores)


def suite_row(name: str, scores: np.ndarray) -> str:
    """Return one line of the table of suites."""
    gate, steps = SUITE_GATES[name], shipped(f"suites/{name}").config.total_timesteps
    digits = 3 if abs(gate.at_least) < 2 else 2 if abs(gate.at_least) < 100 else 0
    seeds, policy = ", ".join(f"{x:.{digits}f}" for x in scores), "greedy" if gate.greedy else "sampled"
    return f"| {name} | {steps // 1000}k | {policy} | {seeds} | {np.median(scores):.{digits}f} | {gate.at_least:g} |"


def row(label: str, steps: int, r: Result) -> str:
    """Return one line of a table."""
    low, high = r.interval
    digits = 2 if abs(r.iqm) < 10 else 0
    numbers = f"{r.iqm:.{digits}f} | [{low:.{digits}f}, {high:.{digits}f}] | {r.greedy.min():.{digits}f}"
    return f"| {label} | {steps // 1000}k | {numbers} | {float(interquartile_mean(r.sampled)):.{digits}f} |"


SUITE_HEAD = "| config | steps | policy | seeds 0, 1, 2 | median | to reach |\n|---|---|---|---|---|---|"
HEAD = "| | steps | greedy, IQM | 95 % interval | worst seed | sampled, IQM |\n|---|---|---|---|---|---|"


def main() -> None:
    """Print the tables of docs/results.md."""
    parser = argparse.ArgumentParser(description="Train and print a table in Markdown.")
    parser.add_argument("table", choices=["gates", "combinations", "others", "recipes", "suites"])
    parser.add_argument(
        "--seeds",
        type=int,
        default=0,
        help="default: 16 for gates, 8 for combinations and recipes, 4 or 8 for others, 3 for suites",
    )
    parser.add_argument(
        "--only", nargs="*", help="of gates and suites: files in configs/; of combinations: first names, such as cpi"
    )
    args = parser.parse_args()
    if args.table == "suites":
        print(SUITE_HEAD, flush=True)
        for name in args.only or SUITE_GATES:
            print(suite_row(name, suite_scores(name, args.seeds or SUITE_SEEDS)), flush=True)
        return
    print(f"*{platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}.*\n\n{HEAD}", flush=True)
    if args.table == "gates":
        for name in args.only or GATES:
            result = learn(name, args.seeds or 16)
            print(row(f"{shipped(name).env}", shipped(name).config.total_timesteps, result), flush=True)
        return
    if args.table == "others":
        for label in args.only or OTHER_TASKS:
            name, changes, seeds, *_ = OTHER_TASKS[label]
            steps = shipped(name).config.total_timesteps
            print(row(label, steps, learn(name, args.seeds or seeds, **changes)), flush=True)
        return
    if args.table == "recipes":
        for label in args.only or RECIPES:
            steps = RECIPES[label][2]
            print(row(label, steps, recipe(label, args.seeds or RECIPE_SEEDS)), flush=True)
        return
    for index, (name, _, _) in enumerate(COMBINATIONS):
        if args.only and name not in args.only:
            continue
        for label, result in combination(index, args.seeds or 8).items():
            print(row(label, 300_000, result), flush=True)


if __name__ == "__main__":
    main()
