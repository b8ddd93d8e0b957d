"""Made-up results of the benchmark, and subprocesses that return them at once."""

from purejaxppo.bench import benchmark, scaling
from purejaxppo.bench.measure import split
from purejaxppo.bench.subprocesses import ChildFailed

MACHINE = {"cpu": "Some CPU", "cores": 2, "platform": "cpu", "device": "cpu", "load_before": 0.0}
RESULT = {
    "num_seeds": 1,
    "compile": {"trace_cold_s": 1.0, "compile_cold_s": 9.0},
    "steps_per_s": {"median": 1000.0, "min": 900.0, "max": 1100.0},
    "update_s": {"median": 0.5, "min": 0.4, "max": 0.6},
    "split_s": split(0.5, {"environment": 0.1, "rollout": 0.2, "targets": 0.05, "shuffle": 0.01, "update": 0.2}),
    "kernels": {"per_env_step": 33.0, "per_minibatch": 199.0, "per_update": 8401.0},
    "flops_per_step": 227e3,
    "bytes_per_step": 65e3,
    "peak_memory_bytes": 155_000_000,
}


def answer_at_once(monkeypatch, platform="cpu", broken=()):
    """Replace the subprocesses of the benchmark; those of the functions named in `broken` fail.

    Returns the list of calls, (name of the function, arguments) each.
    """
    calls = []

    def answer(function, *args, log=None):
        name = function.__name__
        calls.append((name, args))
        if name in broken or (name == "speed" and (name, args[1]) in broken):
            raise ChildFailed("its process ended with exit code -9")
        return {
            "describe_machine": MACHINE | {"platform": platform},
            "measure_ceilings": {"matmul_flops_per_s": 1e9, "memory_bytes_per_s": 1e8},
            "measure_cold": RESULT | {"compile": dict(RESULT["compile"])},
            "compile_warm": {"trace_warm_s": 1.0, "compile_warm_s": 0.5, "from_cache": True},
            "speed": {"num_envs": args[1] if name == "speed" else 0, "steps_per_s": RESULT["steps_per_s"]},
            "drift": {"seconds": [0.1] * 200, "last_to_first": 1.0},
        }[name]

    monkeypatch.setattr(benchmark, "run_in_subprocess", answer)
    monkeypatch.setattr(scaling, "run_in_subprocess", answer)
    return calls
