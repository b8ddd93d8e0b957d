"""`purejaxppo train`."""

import gc
import math
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from purejaxppo._util.version import __version__
from purejaxppo.cli.commands import Train
from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.cli.signals import abort_on_interrupt, collect_signals, in_background
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml, from_tables, read_tables
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.runs import (
    EVALUATION_EPISODES,
    Outcome,
    build,
    claim_folder,
    divergence_message,
    evaluate_policy,
    evaluation_line,
    folder_problems,
    is_sound,
    write_results,
)

CHUNK_SECONDS = 0.7  # about the longest time between two refreshes


def run_train(args: Train) -> int:
    """Check everything, train, evaluate, and leave a run folder."""
    run, problems = from_tables(read_tables(args.file))
    run = replace(
        run, env=args.env, seed=args.seed, config=args.config, network=args.network, hyperparams=args.hyperparams
    )
    problems += folder_problems(args.out)
    print(f"loading JAX and {run.env}", flush=True)
    with abort_on_interrupt():
        _prepare_cpu(run)
        algo = build(run, problems, str(args.file))
    folder = claim_folder(args.out, run)
    use_compile_cache()
    gc.freeze()  # else every collection while JAX traces looks through all of JAX: a fifth of tracing
    return _session(run, algo, folder)


def _prepare_cpu(run: Run) -> None:
    """Let a run use the cores of a CPU as suits its size. Settings that are wrong are told of later, by `build`."""
    from purejaxppo.devices.cpu import prepare_cpu

    try:
        alone = 1 if run.config.num_devices <= 1 else None
        prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, alone)
    except (TypeError, ZeroDivisionError):
        prepare_cpu()


def _session(run: Run, algo: Any, folder: Path) -> int:
    """Train, then write what is worth keeping; `folder` is ours."""
    import jax

    from purejaxppo.training.policy_file import save_policy

    config = run.config
    device = jax.devices()[0]
    kind = device.platform if device.device_kind == device.platform else f"{device.platform} ({device.device_kind})"
    per_update = f"{config.num_updates} updates of {config.num_envs} x {config.num_steps} steps"
    print(f"{run.env}, seed {run.seed}: {per_update} on {kind}\nrun folder: {folder}", flush=True)
    outcome = _train(run, algo, folder)
    if outcome.policy is not None:
        texts = {"env": run.env, "purejaxppo": __version__, "config": dump_toml(run)}
        save_policy(folder / "policy.safetensors", outcome.policy, texts)
    steps = outcome.num_updates * config.timesteps_per_update
    first = f"compilation and first update: {outcome.seconds_first_update:.1f} s"
    print(f"{outcome.status}: {steps:,} env steps in {outcome.seconds:.1f} s ({first})", flush=True)
    evaluations: dict[str, dict[str, float]] = {}
    try:
        if outcome.status == "finished":
            for name in ("greedy", "sampled"):
                evaluations[name] = evaluate_policy(
                    algo, outcome.policy, run.seed, EVALUATION_EPISODES, name == "greedy"
                )
                print(evaluation_line(name, evaluations[name]), flush=True)
    finally:
        write_results(folder, run, outcome, evaluations)
    print(f"kept in {folder}: {', '.join(sorted(entry.name for entry in folder.iterdir()))}")
    if outcome.message:
        print(f"purejaxppo: {outcome.message}", file=sys.stderr)
    return outcome.code


def _train(run: Run, algo: Any, folder: Path) -> Outcome:
    """Train chunk by chunk; every chunk is on disk before the next one ends."""
    from purejaxppo.tracking.csv_file import csv_sink, rows_of
    from purejaxppo.tracking.progress import Meter, display
    from purejaxppo.training.policy_file import Policy

    size = run.config.timesteps_per_update
    meter, policy, done, first_update = Meter(run.config.num_updates * size), None, 0, 0.0
    status, code, message = "finished", FINISHED, ""
    started = time.monotonic()
    with csv_sink(folder / "metrics.csv") as write, display(meter.report.total) as show, collect_signals() as received:
        told: list[int] = []

        def look() -> None:
            if received and not told:
                told.append(received[0])
                show.say("stopping after this chunk (Ctrl-C again stops at once)")

        chunks = in_background(_chunks(run, algo), look)
        with suppress(KeyboardInterrupt):  # the second Ctrl-C does not wait for the chunk; what was learned stays
            for state, metrics in chunks:
                rows = rows_of(metrics, done, size, meter.report.seconds, time.monotonic() - started)
                bad = next((i for i, row in enumerate(rows) if not is_sound(row)), None)
                rows = rows if bad is None else rows[: bad + 1]
                write(rows)
                show.update(meter.chunk(rows))
                first_update = first_update or meter.report.seconds
                kept, done = done, done + len(rows)
                if bad is not None:
                    status, code = "diverged", FAILED
                    message = divergence_message(rows[bad], done, kept, run, policy is not None)
                    break
                policy = Policy(state.params, state.obs_moments)
                if received:
                    break
        if received and status == "finished" and done < run.config.num_updates:
            status, code = "interrupted", 128 + received[0]
            message = "stopped before its end"
            message += f"; how good it is: purejaxppo evaluate {folder}" if policy is not None else ""
    return Outcome(status, code, done, meter.report.seconds, first_update, policy, message)


def _chunks(run: Run, algo: Any) -> Iterator[Any]:
    """Yield (state, metrics) after every hundredth of the run, or about every second where that is sooner."""
    import jax

    from purejaxppo.training.loop import init_state, iterate

    h, left = run.hyperparams, run.config.num_updates
    size = math.ceil(left / 100)  # room for so many updates in the one program that serves every chunk
    state = init_state(algo, jax.random.key(run.seed), h)
    length, compiled = 1, False
    while left > 0:
        started = time.monotonic()
        state, metrics = next(iterate(algo, state, h, num_updates=length, chunk=size))
        yield state, metrics
        left -= length
        if compiled:  # the first chunk tells nothing about the speed
            faster = CHUNK_SECONDS / max(time.monotonic() - started, 1e-3)
            length = math.ceil(length * min(faster, 8.0))
        length, compiled = min(length, size, left), True
