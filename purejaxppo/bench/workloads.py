"""The workloads of the benchmark: fixed work, so that programs and machines can be compared.

The settings are those of PureJaxRL's `ppo.py`: two tanh MLPs of 64 x 64, Adam with eps 1e-5 and a learning rate of
2.5e-4 that is annealed linearly, gamma 0.99, lambda 0.95, both clip ranges 0.2, entropy coefficient 0.01, value
coefficient 0.5, gradient norm 0.5, float32, and four epochs of four minibatches unless a workload says otherwise.
"""

import dataclasses

from purejaxppo.config.schema import Config, Hyperparams, Run

HYPERPARAMS = Hyperparams(vf_clip_eps=0.2, ent_coef=0.01)  # the others are the defaults of this package too


@dataclasses.dataclass(frozen=True)
class Workload:
    """Fixed work: `num_seeds` runs of `run` in one program."""

    run: Run
    description: str
    num_seeds: int = 1
    gpu_seeds: tuple[int, ...] = ()  # numbers of seeds on a GPU, one measurement each; empty: `num_seeds`
    for_gpu: bool = False  # too large for a CPU

    def seeds_on(self, platform: str) -> tuple[int, ...]:
        """Return the numbers of seeds to measure on a JAX platform ("cpu", "gpu", "tpu")."""
        return (self.num_seeds,) if platform == "cpu" else self.gpu_seeds or (self.num_seeds,)


def _run(env: str, num_envs: int, num_steps: int, num_updates: int, **config: int | bool) -> Run:
    total = num_envs * num_steps * num_updates
    sizes = {"num_envs": num_envs, "num_steps": num_steps, "total_timesteps": total}
    return Run(env, config=Config(**sizes, **config), hyperparams=HYPERPARAMS)  # type: ignore[arg-type]


_DEFAULT = _run("CartPole-v1", 4, 128, 976)  # the default of PureJaxRL, 500k steps

WORKLOADS: dict[str, Workload] = {
    "W1": Workload(_run("CartPole-v1", 2048, 128, 80), "CartPole, many environments (headline)"),
    "W2": Workload(_DEFAULT, "CartPole, PureJaxRL's default"),
    "W3": Workload(_DEFAULT, "W2, many seeds at once", num_seeds=16, gpu_seeds=(256, 2048)),
    "W4": Workload(_run("Breakout-MinAtar", 64, 128, 122, num_minibatches=8), "MinAtar Breakout, 10 x 10 x 4 grid"),
    "W5": Workload(
        # observations and rewards are normalized, as in PureJaxRL's script for continuous actions
        _run("Pendulum-v1", 2048, 64, 80, normalize_observations=True, scale_rewards=True),
        "Pendulum, continuous actions",
    ),
    "W6": Workload(_run("CartPole-v1", 65_536, 16, 100), "CartPole, throughput of a GPU", for_gpu=True),
}
