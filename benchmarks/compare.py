"""Compare purejaxppo with a peer on the same work.

    python benchmarks/compare.py --setup purejaxrl
    python benchmarks/compare.py --peer purejaxrl --checkout PATH --workload W1 W2 --json out.json --markdown out.md

Each side is a worker process in its own virtual environment (`peers/protocol.py`). It compiles once, then executes a
training run for each request while the other side waits. The sides alternate, A B B A, so that changes of the machine's
speed affect both. The result is the ratio of environment steps per second of each pair, and the returns of both sides
after a run of `LEARNING_UPDATES` updates. Both sides run under the XLA flags that the command line of purejaxppo sets.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import queue
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).absolute().parent
VENVS = HERE / ".venvs"

# Updates of one timed execution: 3 to 10 s of the slower side on 2 CPU cores. The time per update is constant.
TIMED_UPDATES = {"W1": 2, "W2": 976, "W3": 64, "W4": 24, "W5": 4, "W6": 20}
# Updates of one learning run: enough for the return to rise far and, on W2, to come near its maximum.
LEARNING_UPDATES = {"W1": 20, "W2": 976, "W3": 976, "W4": 122, "W5": 20, "W6": 100}


def _of_brax(file: str, backend: str = "", **config: int) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return an entry of SUITES with what brax's PPO cannot change, and batches that suit a CPU."""
    small = {"num_envs": 256, "num_minibatches": 8}
    fixed = {"truncation": "mask", "resets": "state_pool"}
    return file, {
        "env_params": {"backend": backend} if backend else {},
        "config": small | fixed | config,
        "hyperparams": {"adam_eps": 1e-8, "max_grad_norm": math.inf},
    }


# Tasks of suites, each with the published settings of the suite's own PPO: file in configs/suites/, and what differs
# from it so that both sides have the same settings. "published" names a network of peers/published_networks.py, which
# takes the place of the one that the settings describe.
SUITES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "navix": ("navix_empty_8x8", {"network": {"symbols": "scalar"}}),
    "mpe": (
        "jaxmarl_simple_spread",
        {
            "config": {"num_envs": 48, "num_minibatches": 4},
            "hyperparams": {"learning_rate": 2.5e-4, "vf_clip_eps": 0.2},
        },
    ),
    "xland": (
        "xland_empty_6x6_gru",
        {
            "published": "xland",
            "config": {"num_epochs": 1, "num_minibatches": 16, "truncation": "terminal"},
            "hyperparams": {"vf_coef": 0.25, "vf_clip_eps": 0.2, "adam_eps": 1e-8},
        },
    ),
    "pgx": (
        "pgx_minatar_breakout",
        {
            "published": "pgx_minatar",
            "env_params": {"time_limit": 0},
            # 64 environments instead of 4096, 512 samples in a minibatch instead of 4096: what a CPU can do
            "config": {"num_envs": 64, "num_minibatches": 16},
            "hyperparams": {"vf_coef": 0.25, "vf_clip_eps": 0.2},
        },
    ),
    # brax's PPO has a constant learning rate and optax's eps of Adam, leaves out truncated steps, and caches resets
    "brax": (
        "brax_inverted_pendulum",
        {
            "config": {"truncation": "mask", "resets": "state_pool"},
            "network": {"kernel_init": "lecun_uniform"},
            "hyperparams": {"lr_anneal": 0.0, "adam_eps": 1e-8},
        },
    ),
    "ant": _of_brax("brax_ant", num_steps=20),
    "halfcheetah": _of_brax("brax_halfcheetah", num_steps=20, num_epochs=4),
    "ant-spring": _of_brax("brax_ant", "spring", num_steps=20),
    "halfcheetah-spring": _of_brax("brax_halfcheetah", "spring", num_steps=20, num_epochs=4),
    "cheetah-run": _of_brax("playground_cheetah_run", num_steps=30, num_epochs=4, pool_refresh=0),
    "craftax": (
        "craftax_classic",
        {
            "config": {
                "num_envs": 64,  # instead of 1024
                "num_steps": 64,
                "num_epochs": 4,
                "num_minibatches": 8,
                "truncation": "terminal",
                "pool_size": 4,  # each step makes 4 worlds and draws from them, as its optimistic resets do
                "pool_refresh": 4,
                "normalize_observations": False,
            },
            "network": {"hidden_sizes": (512, 512, 512), "activation": "tanh"},
            "hyperparams": {
                "learning_rate": 2e-4,
                "gamma": 0.99,
                "gae_lambda": 0.8,
                "ent_coef": 0.01,
                "max_grad_norm": 1.0,
                "vf_clip_eps": 0.2,
            },
        },
    ),
}
# The same with this package's convolution on our side; it computes the same function.
for _name in ("xland", "pgx"):
    _file, _changes = SUITES[_name]
    SUITES[f"{_name}-patches"] = (_file, _changes | {"published": f"{_changes['published']}_patches"})
TIMED_UPDATES |= {"ant": 3, "halfcheetah": 3, "ant-spring": 3, "halfcheetah-spring": 3, "cheetah-run": 10}
LEARNING_UPDATES |= {"ant": 400, "halfcheetah": 400, "ant-spring": 64, "halfcheetah-spring": 480, "cheetah-run": 400}
TIMED_UPDATES |= {"navix": 100, "mpe": 50, "brax": 20, "craftax": 4}
LEARNING_UPDATES |= {"navix": 150, "mpe": 163, "brax": 73, "craftax": 24}
TIMED_UPDATES |= {"xland": 20, "xland-patches": 20, "pgx": 1, "pgx-patches": 1}
LEARNING_UPDATES |= {"xland": 60, "xland-patches": 60, "pgx": 12, "pgx-patches": 12}


@dataclasses.dataclass(frozen=True)
class Peer:
    """How to install and start a peer, and how its work differs from that of purejaxppo."""

    adapter: str  # file in peers/
    options: tuple[str, ...] = ()  # of the adapter
    checkout: str = ""  # the repository, if it is not a package and needs a clone
    requirements: tuple[str, ...] = ()  # of its virtual environment
    workloads: tuple[str, ...] = ("W1", "W2", "W3", "W4", "W5", "W6")  # that it can execute
    timed_updates: dict[str, int] = dataclasses.field(default_factory=dict)  # instead of TIMED_UPDATES
    learning_updates: dict[str, int] = dataclasses.field(default_factory=dict)  # of both sides
    environment: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)  # variables, by workload
    continued: bool = False  # a timed execution continues one run, so that no initialization is timed
    differs: str = ""


# gymnax 0.0.9 is the last release with the step of five values that these peers expect. It imports six undeclared.
GYMNAX = ("gymnax==0.0.9", "six==1.17.0")
PLAYGROUND = ("playground==0.2.0", "mujoco==4.0.0", "mujoco-mjx==3.17.0")
PGX = ("pgx==2.6.0", "pydantic==2.14.4")  # pydantic reads the settings of its script
PEERS = {
    "ours": Peer("ours.py", differs="the settings of --config"),
    "purejaxrl": Peer(
        "purejaxrl_ppo.py",
        checkout="PureJaxRL",
        requirements=("jax==0.10.2", "distrax==0.1.9", "flax==0.12.8", "optax==0.2.8", *GYMNAX),
        # Its vmapped QR decomposition deadlocks on two threads of jaxlib 0.10.2. With one thread it reaches 245k
        # steps/s, with eight 170k.
        environment={"W3": {"NPROC": "1"}},
        differs="time limits are terminations; W3: one thread, because it deadlocks on two; W5: its script for "
        "continuous actions with layers of 64 instead of 256 on gymnax, which updates the statistics of observations "
        "and rewards at every step and does not bound the normalized numbers",
    ),
    "rejax": Peer(
        "rejax_ppo.py",
        requirements=("jax==0.10.2", "rejax==0.1.3", "distrax==0.1.9", "flax==0.12.8", "optax==0.2.8", *GYMNAX),
        differs="gradients are clipped by element, Adam eps is 1e-8, the initialization is not orthogonal, time limits "
        "are terminations, normalized observations and rewards are not bounded; its returns are those of 128 episodes "
        "after training",
    ),
    "sb3": Peer(
        "stable_baselines.py",
        options=("sb3",),
        requirements=("stable-baselines3==2.9.2", "torch==2.13.0", "gymnasium==1.4.0"),
        workloads=("W2",),
        timed_updates={"W2": 32},
        learning_updates={"W2": 196},
        differs="CartPole of gymnasium on the host, one thread of torch (faster here than two); the clipped value loss "
        "is not the maximum of both losses",
    ),
    "sbx": Peer(
        "stable_baselines.py",
        options=("sbx",),
        requirements=("sbx-rl==0.28.0", "torch==2.13.0", "jax==0.10.2", "flax==0.12.8", "gymnasium==1.4.0"),
        workloads=("W2",),
        timed_updates={"W2": 32},
        learning_updates={"W2": 196},
        differs="CartPole of gymnasium on the host; no clipped value loss; gradients of actor and critic are clipped "
        "separately",
    ),
    "brax": Peer(
        "brax_ppo.py",
        # its release uses functions that jax 0.10 has removed
        requirements=("jax==0.9.2", "brax==0.14.2", "flax==0.12.6", "optax==0.2.8", *GYMNAX, *PLAYGROUND),
        workloads=("W5", "brax", "ant", "halfcheetah", "ant-spring", "halfcheetah-spring", "cheetah-run"),
        continued=True,
        differs="jax 0.9.2; minibatches of whole sequences; advantages recomputed for every minibatch, with the "
        "target of the next state instead of its value, and normalized with the zeros of truncated steps; statistics "
        "of observations updated before the epochs instead of after them, no bound on normalized observations; "
        "resets to one cached state per environment, ours on brax to a pool of 256 "
        "states, one of which (on cheetah-run: none) is replaced in each step; timed executions of both sides continue "
        "one run; its compile time is that of two compilations, its returns are those of 128 episodes after training. "
        "W5: initialization not orthogonal, constant learning rate, Adam eps 1e-8, rewards not scaled, "
        "truncated steps left out. ant, halfcheetah, cheetah-run: smaller batches than published on both sides, and at "
        "most 4 epochs. It has no discrete policy",
    ),
    "navix": Peer(
        "navix_ppo.py",
        requirements=("jax==0.10.2", "navix==0.7.4", "flax==0.12.8", "optax==0.2.8"),
        workloads=("navix",),
        differs="gamma is raised to the number of the step, time limits are terminations, the clipped value loss has a "
        "factor of one half in one of its terms, hidden layers are not initialized orthogonally",
    ),
    "jaxmarl": Peer(
        "jaxmarl_ippo.py",
        checkout="JaxMARL",
        requirements=("jax==0.10.2", "jaxmarl==0.2.0", "distrax==0.1.9", "flax==0.12.8", "optax==0.2.8"),
        workloads=("mpe",),
        differs="time limits are terminations, observations lack the number of the agent",
    ),
    "xland": Peer(
        "xland_ppo.py",
        checkout="XLand-MiniGrid",
        requirements=("jax==0.10.2", "xminigrid==0.9.3", "distrax==0.1.9", "flax==0.12.8", "optax==0.2.8"),
        workloads=("xland", "xland-patches"),
        differs="the recurrent state, previous action and previous reward are not reset between episodes, the GRU "
        "starts from other random matrices; its returns are those of 80 episodes after each of the last updates, "
        "which a timed run leaves out",
    ),
    "pgx": Peer(
        "pgx_ppo.py",
        checkout="pgx",
        requirements=("jax==0.10.2", "dm-haiku==0.0.17", "distrax==0.1.9", "optax==0.2.8", *PGX),
        workloads=("pgx", "pgx-patches"),
        differs="64 environments and 512 samples in a minibatch instead of 4096 each, on both sides; its "
        "updates are one program; its returns are those of 100 episodes of each policy of the last tenth",
    ),
    "craftax": Peer(
        "craftax_ppo.py",
        checkout="Craftax_Baselines",
        requirements=("jax==0.10.2", "craftax==1.6.1", "distrax==0.1.9", "flax==0.12.8", "optax==0.2.8"),
        workloads=("craftax",),
        differs="64 environments instead of 1024 on both sides; no world begins two "
        "episodes unless more end in a step than it makes worlds; its return is the mean over the last updates of "
        "their mean returns",
    ),
}


# ---------------------------------------------------------------------------- the work


def spec_of(name: str, num_updates: int, num_seeds: int | None = None, config: dict[str, Any] | None = None) -> dict:
    """Return a workload as JSON for a worker: `num_updates` updates, annealed over them."""
    run, seeds = workload_of(name)
    settings = dataclasses.asdict(run.config) | (config or {})
    settings["total_timesteps"] = num_updates * settings["num_envs"] * settings["num_steps"]
    published = SUITES[name][1].get("published", "") if name in SUITES else ""
    return {
        "workload": name,
        "env": run.env,
        "env_params": dict(run.env_params),
        "config": settings,
        "network": dataclasses.asdict(run.network),
        "published": published,
        "hyperparams": run.hyperparams._asdict(),
        "num_seeds": num_seeds or seeds,
        "settings": [key for key in effective_settings(run) if not (published and key.startswith("network."))],
    }


# Settings for which adapters need not account: the length of the run, which every worker reports; how ours computes and
# what it does with faults; how it makes first states, of which `Peer.differs` tells.
LENGTH = ("total_timesteps",)
OURS_ALONE = ("on_nonfinite", "shuffle", "microbatch_size", "num_devices", "max_skipped", "diagnostics")
RESETS = ("resets", "pool_size", "pool_refresh")


def effective_settings(run: Any) -> list[str]:
    """Return the dotted names of the settings that change what is learned, for which an adapter has to account."""
    from purejaxppo.config.checks import ignored_settings
    from purejaxppo.config.schema import table_names

    ignored = {*ignored_settings(run.config, run.network), *(f"config.{name}" for name in LENGTH + OURS_ALONE + RESETS)}
    tables = table_names() | {"env_params": tuple(run.env_params)}
    names = [f"{table}.{name}" for table, own in tables.items() for name in own]
    return [name for name in names if name not in ignored]


def workload_of(name: str) -> tuple[Any, int]:
    """Return the run of a workload, or of an entry of SUITES, and the number of its seeds."""
    from purejaxppo.bench.workloads import WORKLOADS
    from purejaxppo.config.toml import load_toml

    if name in WORKLOADS:
        return WORKLOADS[name].run, WORKLOADS[name].num_seeds
    file, changes = SUITES[name]
    run = load_toml(HERE.parent / "configs" / "suites" / f"{file}.toml")
    replaced = {
        "env_params": {**run.env_params, **changes.get("env_params", {})},
        "config": dataclasses.replace(run.config, **changes.get("config", {})),
        "network": dataclasses.replace(run.network, **changes.get("network", {})),
        "hyperparams": run.hyperparams._replace(**changes.get("hyperparams", {})),
    }
    return dataclasses.replace(run, **replaced), 1


class Worker:
    """A worker process. Its methods raise RuntimeError with its last output if it dies or does not answer in time."""

    patience = 900.0  # seconds for one answer: compilation, or one execution

    def __init__(self, command: Sequence[str], spec: dict, env: dict[str, str] | None = None):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors, "text": True}
        self.process = subprocess.Popen([*command, json.dumps(spec)], env=env, **pipes)  # type: ignore[call-overload]
        self.lines: queue.Queue[str] = queue.Queue()  # its output; "" at the end
        threading.Thread(target=self._listen, daemon=True).start()
        self.command = command
        self.ready: dict[str, Any] = {}

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def wait(self) -> dict[str, Any]:
        """Wait until it has compiled, and return its ready message."""
        self.ready = self._answer()
        return self.ready

    def run(self, seed: int) -> dict[str, Any]:
        """Execute once: {"seconds", "env_steps", "final_returns"}."""
        with contextlib.suppress(BrokenPipeError):  # it has died; `_answer` raises an error with its last output
            self.process.stdin.write(f"run {seed}\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line, spoke = "\n", True
        while line and not line.startswith("{"):  # skips what libraries print while they are imported
            try:
                line = self.lines.get(timeout=self.patience)
            except queue.Empty:
                line, spoke = "", False
        if line:
            return json.loads(line)
        if not spoke:
            self.process.kill()
        code = self.process.wait()
        end = f"ended with {code}" if spoke else f"did not answer within {self.patience:.0f} s"
        self.errors.seek(0)
        raise RuntimeError(f"{shlex.join(self.command)} {end}:\n{self.errors.read()[-4000:]}")

    def close(self) -> None:
        """Close its input, upon which it ends."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@dataclasses.dataclass(frozen=True)
class Side:
    """How to start the workers of one side."""

    command: tuple[str, ...]
    env: dict[str, str]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields of Config that differ from the workload's

    @contextlib.contextmanager
    def worker(self, spec: dict) -> Iterator[Worker]:
        """A worker that has compiled; ended afterwards, whatever happens."""
        worker = Worker(self.command, spec | {"config": spec["config"] | self.config}, self.env)
        try:
            worker.wait()
            yield worker
        except BaseException:
            worker.process.kill()  # it may compute for hours until it reads its input
            raise
        finally:
            worker.close()


# ---------------------------------------------------------------------------- interleaved executions


def execution_order(pairs: int) -> list[tuple[str, str]]:
    """Return the order of execution, A B B A A B B A ..., in which each side is first equally often."""
    return [("A", "B") if i % 2 == 0 else ("B", "A") for i in range(pairs)]


def interleave(a: Worker, b: Worker, pairs: int) -> list[tuple[dict, dict]]:
    """Execute both sides alternately and return (reply of a, reply of b) for each pair.

    One execution of each before them warms up and is not counted.
    """
    side = {"A": a, "B": b}
    for worker in side.values():
        worker.run(0)
    replies = []
    for seed, order in enumerate(execution_order(pairs), start=1):
        reply = {name: side[name].run(seed) for name in order}
        replies.append((reply["A"], reply["B"]))
    return replies


def steps_per_second(reply: dict) -> float:
    """Return the environment steps of all seeds per second of one execution."""
    return reply["env_steps"] / reply["seconds"]


def median_interval(values: Sequence[float], level: float = 0.95) -> dict[str, float]:
    """Return the median with its order-statistic interval: {"median", "low", "high", "coverage"}.

    The interval from the k-th smallest to the k-th largest of n values contains the true median with probability
    1 - 2 P(Binomial(n, 1/2) < k), whatever the distribution. k is the largest that reaches `level`. If none does
    (n < 6 for 95 %), k = 1 and `coverage` is less than `level`.
    """
    x, n = sorted(values), len(values)

    def coverage(k: int) -> float:
        return 1.0 - 2.0 * sum(math.comb(n, i) for i in range(k)) / 2.0**n

    k = max((k for k in range(1, (n + 1) // 2 + 1) if coverage(k) >= level), default=1)
    return {"median": statistics.median(x), "low": x[k - 1], "high": x[n - k], "coverage": max(coverage(k), 0.0)}


def compare_returns(ours: Sequence[float], peer: Sequence[float], resamples: int = 10_000) -> dict[str, Any]:
    """Return the means of both sides' final returns, one per seed, and their difference, with 95 % bootstrap intervals.

    "verdict" is "equal" if the interval of ours - peer contains 0, else "better" or "worse" (ours than the peer).
    """
    rng = np.random.default_rng(0)

    def bootstrap(x: Sequence[float]) -> np.ndarray:
        x = np.asarray(x, np.float64)
        return rng.choice(x, (resamples, len(x))).mean(1)

    means = {"ours": bootstrap(ours), "peer": bootstrap(peer)}
    means["difference"] = means["ours"] - means["peer"]
    centre = {"ours": float(np.mean(ours)), "peer": float(np.mean(peer))}
    centre["difference"] = centre["ours"] - centre["peer"]
    result: dict[str, Any] = {}
    for name, samples in means.items():
        low, high = np.percentile(samples, [2.5, 97.5])
        result[name] = {"mean": centre[name], "low": float(low), "high": float(high)}
    low, high = result["difference"]["low"], result["difference"]["high"]
    result["verdict"] = "better" if low > 0 else "worse" if high < 0 else "equal"
    return result


def learn(side: Side, spec: dict, seeds: int) -> dict[str, Any]:
    """Return the final returns of at least `seeds` seeds, from as many executions as that takes."""
    returns: list[float] = []
    with side.worker(spec) as worker:
        for seed in range(math.ceil(seeds / spec["num_seeds"])):
            returns += worker.run(seed)["final_returns"]
    if None in returns:
        problem = "no episode ended in the last tenth of training; the check of learning needs more updates"
        raise RuntimeError(f"{spec['workload']}: {problem}")
    return {"final_returns": returns, "env_steps_per_seed": spec["config"]["total_timesteps"]}


def learning_curve(side: Side, spec: dict, seed: int = 0) -> list[dict[str, float]]:
    """Return the points of a seed's learning curve: {"env_steps", "minutes", "return"}, evaluations not timed."""
    with side.worker(spec) as worker:
        return worker.run(seed)["curve"]


def race(ours: Side, peer: Side, specs: tuple[dict, dict], pairs: int) -> dict[str, Any]:
    """Measure the speed of both sides on one workload: the ratio of each pair, its median and interval."""
    with ours.worker(specs[0]) as a, peer.worker(specs[1]) as b:
        replies = interleave(a, b, pairs)
        ready = {"ours": a.ready, "peer": b.ready}
    speeds = {"ours": [steps_per_second(x) for x, _ in replies], "peer": [steps_per_second(y) for _, y in replies]}
    ratios = [x / y for x, y in zip(speeds["ours"], speeds["peer"], strict=True)]
    return {
        **{name: ready[name] | {"steps_per_second": median_interval(speeds[name])} for name in speeds},
        "speeds": speeds,
        "ratios": ratios,
        "ratio": median_interval(ratios),
    }


# ---------------------------------------------------------------------------- the report

CURVE = (
    "\n| {} | minutes of ours | return of ours | minutes of the peer | return of the peer |\n|---|---|---|---|---|\n"
)
HEADER = (
    "| workload | peer | ours, steps/s | peer, steps/s | ratio (interval) | compile, ours / peer | return, ours "
    "| return, peer | learning of ours |\n|---|---|---|---|---|---|---|---|---|\n"
)


def row(result: dict[str, Any]) -> str:
    """Return one line of the Markdown table."""
    ours, peer, ratio = result["ours"], result["peer"], result["ratio"]
    compiled = " / ".join("-" if s is None else f"{s:.1f} s" for s in (x["compile_seconds"] for x in (ours, peer)))
    learning = result.get("learning")
    cells = [
        result["workload"],
        peer["peer"],
        *(f"{side['steps_per_second']['median']:,.0f}" for side in (ours, peer)),
        f"**{ratio['median']:.2f}** ({ratio['low']:.2f} to {ratio['high']:.2f}, {100 * ratio['coverage']:.0f} %)",
        compiled,
    ]
    if learning:
        cells += [f"{x['mean']:.4g} ({x['low']:.4g} to {x['high']:.4g})" for x in (learning["ours"], learning["peer"])]
        steps, seeds = learning["env_steps_per_seed"], len(learning["returns"]["ours"])
        cells += [f"{learning['verdict']} ({seeds} seeds, {steps / 1e6:.2g}M steps)"]
    else:
        cells += ["-", "-", "not checked"]
    return "| " + " | ".join(cells) + " |\n"


def curve_table(result: dict[str, Any]) -> str:
    """Return the learning curves of both sides, a line for each number of steps."""
    lines = []
    for ours, peer in zip(result["curve"]["ours"], result["curve"]["peer"], strict=True):
        cells = (f"{x['minutes']:.1f} | {x['return']:.1f}" for x in (ours, peer))
        lines.append(f"| {ours['env_steps'] / 1e6:.2f}M | {' | '.join(cells)} |\n")
    return CURVE.format(result["workload"]) + "".join(lines)


def machine() -> dict[str, Any]:
    """Describe the machine and its load."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    variables = {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_", "OMP_"))}
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "variables": variables,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }


def _lines(path: str) -> list[str]:
    return pathlib.Path(path).read_text().splitlines() if pathlib.Path(path).exists() else []


def about(report: dict[str, Any]) -> str:
    """Return the notes under the table: machine, versions, flags and differences."""
    place, lines = report["machine"], []
    lines.append(
        f"{place['cpu']}, {place['cores']} cores, {place['system']}; load {place['load_average']} at the start."
    )
    for side in ("ours", "peer"):
        ready = report["results"][0][side]
        versions = ", ".join(f"{k} {v}" for k, v in ready["versions"].items())
        lines.append(f"{ready['peer']} on {ready.get('device', 'cpu')}: {versions}.")
    for result in report["results"]:
        ours, peer = (result["flags"][side] or "none" for side in ("ours", "peer"))
        same = f"XLA flags of both sides: {ours}"
        lines.append(f"{result['workload']}: {same if ours == peer else f'XLA flags: {ours}; of the peer: {peer}'}.")
    counted = [
        f"{x['workload']} {x['ours']['kernels_per_env_step']:.0f} / {x['peer']['kernels_per_env_step']:.0f}"
        for x in report["results"]
        if all(x[side].get("kernels_per_env_step") for side in ("ours", "peer"))
    ]
    if counted:
        lines.append(f"Kernels per step of all environments, ours / peer: {', '.join(counted)}.")
    if report["differs"]:
        lines.append(f"Differences of the peer: {report['differs']}.")
    return "\n" + "\n".join(f"* {line}" for line in lines) + "\n"


# ---------------------------------------------------------------------------- command line


def setup(name: str, cuda: bool = False) -> None:
    """Create the peer's virtual environment with its pinned requirements."""
    import venv

    requirements = [r.replace("jax==", "jax[cuda12]==") if cuda else r for r in PEERS[name].requirements]
    venv.create(VENVS / name, with_pip=True, clear=True)
    print(f"==> {VENVS / name}: {' '.join(requirements)}", file=sys.stderr)
    subprocess.run([str(python_of(name)), "-m", "pip", "install", "--quiet", *requirements], check=True)


def python_of(name: str) -> pathlib.Path:
    """Return the Python of a peer: that of its virtual environment, or this one for ours."""
    return pathlib.Path(sys.executable) if name == "ours" else VENVS / name / "bin" / "python"


def side_of(name: str, args: argparse.Namespace) -> Side:
    """Return one side by its name in `PEERS`."""
    command: tuple[str, ...] = (str(python_of(name)), str(HERE / "peers" / PEERS[name].adapter), *PEERS[name].options)
    if PEERS[name].checkout:
        if args.checkout is None:
            raise SystemExit(f"compare.py: {PEERS[name].checkout} is no package; give a clone with --checkout PATH")
        command += ("--checkout", str(args.checkout.absolute()))
    if not pathlib.Path(command[0]).exists():
        raise SystemExit(f"compare.py: {name} is not set up; run: python benchmarks/compare.py --setup {name}")
    return Side(command, environment(ours=name == "ours"))


def environment(ours: bool) -> dict[str, str]:
    """Return the environment variables of a worker. On a GPU each side gets 45 % of the memory."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}
    if ours:
        env["PYTHONPATH"] = str(HERE.parent)
    return env


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--setup", choices=sorted(set(PEERS) - {"ours"}), help="create the virtual environment of a peer, and exit"
    )
    which.add_argument("--peer", choices=sorted(PEERS), help="the peer to compare with")
    which.add_argument("--peer-command", help="instead of --peer, a command that speaks peers/protocol.py")
    parser.add_argument("--ours-command", help="the same, instead of purejaxppo")
    parser.add_argument("--cuda", action="store_true", help="with --setup: install JAX for CUDA")
    parser.add_argument("--checkout", type=pathlib.Path, help="the clone of a peer that is no package")
    parser.add_argument("--workload", nargs="+", default=["W1"], help=f"W1 to W6; {' '.join(SUITES)}")
    parser.add_argument("--num-seeds", type=int, help="seeds per program, instead of those of the workload")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of timed executions, at least 5")
    parser.add_argument(
        "--updates", type=int, help="updates of one timed execution, instead of the number for the workload"
    )
    parser.add_argument("--learning-seeds", type=int, default=8, help="seeds of the check of learning; 0: no check")
    parser.add_argument(
        "--curve",
        type=int,
        metavar="POINTS",
        help="instead of the check of learning, evaluate one seed at so many points",
    )
    parser.add_argument("--curve-seed", type=int, default=0, help="the seed that --curve trains")
    parser.add_argument("--learning-updates", type=int, help="updates of one learning run")
    parser.add_argument(
        "--config", nargs="*", default=[], metavar="NAME=VALUE", help="fields of Config, for purejaxppo only"
    )
    parser.add_argument("--patience", type=float, default=Worker.patience, help="seconds to wait for one answer")
    parser.add_argument(
        "--flags", help="XLA_FLAGS of both sides, to which defaults are added; write --flags=FLAGS. Default: those here"
    )
    parser.add_argument("--peer-flags", help="XLA_FLAGS of the peer, if they are to differ; write --peer-flags=FLAGS")
    parser.add_argument("--fast-flags", action="store_true", help="add the flags of purejaxppo's --fast-flags")
    parser.add_argument("--json", type=pathlib.Path, help="file for all results")
    parser.add_argument("--markdown", type=pathlib.Path, help="file for the table")
    args = parser.parse_args(argv)
    if args.pairs < 5:
        parser.error("--pairs: at least 5")
    return args


def sides(args: argparse.Namespace) -> tuple[Side, Side, Peer]:
    """Return ours, the peer, and the description of the peer."""
    config = dict(item.split("=", 1) for item in args.config)
    config = {name: _value(text) for name, text in config.items()}
    custom = [shlex.split(c) if c else None for c in (args.ours_command, args.peer_command)]
    ours = Side(tuple(custom[0]), dict(os.environ)) if custom[0] else side_of("ours", args)
    peer = Side(tuple(custom[1]), dict(os.environ)) if custom[1] else side_of(args.peer, args)
    known = PEERS[args.peer] if args.peer else Peer("")
    return dataclasses.replace(ours, config=config), peer, known


def flags_of(config: dict[str, Any], args: argparse.Namespace) -> dict[str, str]:
    """Return XLA_FLAGS of both sides: by default the same ones, as `prepare_cpu` sets them for `config`."""
    from purejaxppo.devices.cpu import xla_flags

    minibatch_size = config["num_envs"] * config["num_steps"] // config["num_minibatches"]
    given = (os.environ.get("XLA_FLAGS", "") if args.flags is None else args.flags).split()
    names = {flag.lstrip("-").split("=", 1)[0] for flag in given}
    wanted = xla_flags(minibatch_size, args.fast_flags)
    ours = " ".join([*given, *(f"--{name}={value}" for name, value in wanted.items() if name not in names)])
    return {"ours": ours, "peer": ours if args.peer_flags is None else args.peer_flags}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def check_curve(args: argparse.Namespace, known: Peer) -> None:
    """Stop, before anything is compiled, unless both sides can evaluate at equal parts of the training."""
    if args.peer not in ("ours", "brax"):
        raise SystemExit("compare.py: --curve works with --peer brax and --peer ours")
    for name in args.workload:
        updates = args.learning_updates or known.learning_updates.get(name, LEARNING_UPDATES[name])
        if args.curve < 1 or updates % args.curve:
            raise SystemExit(f"compare.py: --curve must divide the {updates} updates of {name}, not be {args.curve}")


def with_flags(name: str, args: argparse.Namespace, ours: Side, peer: Side, known: Peer) -> tuple[Side, Side, dict]:
    """Return both sides with the XLA flags for a workload, and the flags."""
    flags = flags_of(spec_of(name, 1)["config"] | ours.config, args)
    variables = {"XLA_FLAGS": flags["ours"], "PUREJAXPPO_FAST_FLAGS": str(int(args.fast_flags))}
    ours = dataclasses.replace(ours, env=ours.env | variables)
    variables = known.environment.get(name, {}) | {"XLA_FLAGS": flags["peer"]}
    return ours, dataclasses.replace(peer, env=peer.env | variables), flags


def measure_speed(name: str, args: argparse.Namespace, ours: Side, peer: Side, known: Peer) -> dict[str, Any]:
    """Compare the speed on one workload."""
    updates = args.updates or TIMED_UPDATES[name]
    peer_updates = args.updates or known.timed_updates.get(name, updates)
    specs = (spec_of(name, updates, args.num_seeds), spec_of(name, peer_updates, args.num_seeds))
    specs[0]["continued"] = known.continued
    return race(ours, peer, specs, args.pairs)


def measure_learning(name: str, args: argparse.Namespace, ours: Side, peer: Side, known: Peer) -> dict[str, Any]:
    """Compare learning on one workload, by the curve of one seed or by the last returns of several seeds."""
    updates = args.learning_updates or known.learning_updates.get(name, LEARNING_UPDATES[name])
    spec = spec_of(name, updates, args.num_seeds) | {"learning": True}
    if args.curve:
        spec |= {"curve": args.curve}
        both = {"ours": ours, "peer": peer}
        return {"curve": {name: learning_curve(side, spec, args.curve_seed) for name, side in both.items()}}
    if not args.learning_seeds:
        return {}
    learned = {"ours": learn(ours, spec, args.learning_seeds), "peer": learn(peer, spec, args.learning_seeds)}
    returns = {side: x["final_returns"] for side, x in learned.items()}
    steps = learned["ours"]["env_steps_per_seed"]
    return {"learning": compare_returns(**returns) | {"returns": returns, "env_steps_per_seed": steps}}


def write(report: dict[str, Any], args: argparse.Namespace) -> None:
    """Write all results to the files that were asked for."""
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(HEADER + "".join(map(row, report["results"])) + about(report))


def exit_on_sigterm() -> None:
    """Make SIGTERM end this process by SystemExit, so that it ends its workers."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def main(argv: Sequence[str] | None = None) -> None:
    """Set up a peer, or compare with one and write the results after each workload."""
    args = parse(argv)
    if args.setup:
        return setup(args.setup, args.cuda)
    Worker.patience = args.patience
    ours, peer, known = sides(args)
    if args.curve is not None:
        check_curve(args, known)
    if impossible := [name for name in args.workload if name not in known.workloads]:
        raise SystemExit(f"compare.py: {args.peer} cannot execute {' '.join(impossible)}: {known.differs}")
    report = {"machine": machine(), "config": ours.config, "differs": known.differs, "results": []}
    print(HEADER, end="")
    for name in args.workload:
        *workers, flags = with_flags(name, args, ours, peer, known)
        result = {"workload": name, "flags": flags, **measure_speed(name, args, *workers, known)}
        report["results"].append(result)
        write(report, args)  # the speed is kept if the check of learning fails or is killed
        try:
            result |= measure_learning(name, args, *workers, known)
        finally:
            print(row(result), end="", flush=True)
            write(report, args)
        if args.curve:
            print(curve_table(result), flush=True)
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    exit_on_sigterm()
    main()
