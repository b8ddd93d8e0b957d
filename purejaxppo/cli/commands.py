"""The commands and their options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig, Run
from purejaxppo.training.runs import EVALUATION_EPISODES


@dataclass(frozen=True)
class Train:
    """Train an agent as a TOML file says. Options replace what the file says; the defaults shown are the file's."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG.toml")]  # such as configs/cartpole.toml
    out: Path | None = None  # run folder, new or empty; else runs/<env>-<seed>-<time>
    env: str = Run.env  # what to train on; `purejaxppo envs` lists them
    seed: int = Run.seed  # of everything random
    config: Config = field(default_factory=Config)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hyperparams: Hyperparams = field(default_factory=Hyperparams)


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with the policy of a run."""

    run_dir: tyro.conf.Positional[Path]  # the folder that `purejaxppo train` made
    num_episodes: int = EVALUATION_EPISODES
    seed: int = 0  # of the evaluation
    sampled: bool = False  # draw actions from the policy; else its most likely ones


@dataclass(frozen=True)
class Envs:
    """List what can be trained on."""

    suite: tyro.conf.Positional[str] = ""  # one suite only


@dataclass(frozen=True)
class Bench:
    """Measure what PPO costs on this machine: a table, and a picture `bench.png`. Takes minutes."""

    workload: tuple[str, ...] = ()  # such as W1 W2; else all, but on a CPU without those that are made for a GPU
    json: Path | None = None  # write every number into this file too
    out: Path | None = None  # folder of the picture; else that of the JSON file, else the working folder
    scaling: bool = False  # also: speed against the number of environments, and time per update as a run goes on
    repetitions: int = 5  # timed ones, of which the median counts
    seconds: float = 0.5  # least duration of a repetition


Command = Train | Evaluate | Envs | Bench
