"""The command line: `purejaxppo train`, `purejaxppo evaluate`, `purejaxppo envs`, `purejaxppo bench`.

JAX and the environments are imported only when a command needs them, so that `--help` is quick.
"""

import gc
import hashlib
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

import tyro

from purejaxppo import __version__
from purejaxppo.config.checks import (
    Config,
    ConfigError,
    Hyperparams,
    NetworkConfig,
    Problem,
    Run,
    check,
    dump_toml,
    from_tables,
    load_toml,
    nearest,
    parse_toml,
    read_tables,
    read_toml,
)

FINISHED, FAILED, MISTAKE = 0, 1, 2  # exit codes; a signal adds 128

EVALUATION_EPISODES = 128

CHUNK_SECONDS = 0.7  # about the longest time between two refreshes


class Mistake(Exception):
    """Something the user can put right: printed without a traceback, exit code 2."""


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


def _parse(argv: Sequence[str]) -> Command:
    """Parse the command line. The TOML file that it names gives the defaults of all other options."""
    # The file is nearly always the word after `train`, or one that ends in .toml; else the first pass finds it.
    words = list(argv[1:]) if argv[:1] == ["train"] else []
    names = words[:1] if words and not words[0].startswith("-") else [word for word in words if word.endswith(".toml")]
    guess = Path(names[0]) if names else None
    if guess is not None and not {"-h", "--help"} & set(argv):
        words.remove(names[0])
        _check_options(guess, words)
    args = _parse_with(argv, guess)
    return _parse_with(argv, args.file) if isinstance(args, Train) and args.file != guess else args


def _check_options(file: Path, words: Sequence[str]) -> None:
    """Raise ConfigError where an option is wrong, with all else that is: tyro would stop at the first such word."""
    from purejaxppo.cli.overrides import as_tables, overlaid

    options, problems = as_tables(words)
    out = options.pop("out", "")
    if problems or from_tables(options)[1]:
        run, found = from_tables(overlaid(read_tables(file), options))
        build(run, [*found, *problems, *_folder_problems(Path(out) if out else None)], str(file))


def _parse_with(argv: Sequence[str], file: Path | None) -> Command:
    run = Run()
    if file is not None:
        with suppress(ConfigError):
            run = read_toml(file)[0]
    settings = {"env": run.env, "seed": run.seed, "config": run.config, "network": run.network}
    default = Train(file=tyro.MISSING, hyperparams=run.hyperparams, **settings)
    train = Annotated[Train, tyro.conf.subcommand("train", default=default)]
    others = [Annotated[cls, tyro.conf.subcommand(cls.__name__.lower())] for cls in (Evaluate, Envs, Bench)]
    commands: Any = Union[train, *others]
    about = "Proximal Policy Optimization as pure JAX functions. Each command has its own --help."
    return tyro.cli(commands, args=argv, prog="purejaxppo", description=about)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 a mistake of the user, 130 stopped by Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"purejaxppo {__version__}")
        return FINISHED
    commands: dict[type, Callable[[Any], int]] = {Train: train, Evaluate: evaluate, Envs: envs, Bench: bench}
    try:
        args = _parse(argv)
        code = commands[type(args)](args)
        sys.stdout.flush()  # a closed pipe is noticed here
        return _leave(code) if code > 128 else code
    except (Mistake, ConfigError) as mistake:
        print(f"purejaxppo: error: {mistake}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("purejaxppo: aborted", file=sys.stderr)
        return _leave(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read our output has seen enough, as in `purejaxppo envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes at exit
        return 128 + signal.SIGPIPE
    except OSError as error:  # such as a full disk
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return FAILED
    except RuntimeError as error:  # JAX has no class of its own for this one
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            f"purejaxppo: error: the device has not enough memory; fewer num_envs or num_steps help\n{error}",
            file=sys.stderr,
        )
        return FAILED


def _leave(code: int) -> int:
    """Return the exit code; but where a program still runs on the device, end the process without waiting for it."""
    if any(thread.name.startswith(WORKER) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def envs(args: Envs) -> int:
    """Print every environment id, by suite."""
    from purejaxppo.envs.registry import available

    suites = available()
    if args.suite and args.suite not in suites:
        listed = ", ".join(suites)
        raise Mistake(f'no suite "{args.suite}"; did you mean {nearest(args.suite, suites)[0]}? (installed: {listed})')
    for suite, names in suites.items():
        if args.suite in ("", suite):
            _print_names(suite, names)
    return FINISHED


def _print_names(suite: str, names: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        print("\n".join(f"{suite}/{name}" for name in names))
        return
    from rich.columns import Columns
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{suite}[/bold] ({len(names)})")
    console.print(Columns(names, padding=(0, 2), column_first=True))


def build(run: Run, problems: Iterable[Problem] = (), source: str = "") -> Any:
    """Return the Algorithm of `run`, everything checked; nothing is compiled yet.

    Raises:
        ConfigError: with all problems at once, those of the environment and of the network included.
    """
    from purejaxppo.envs.registry import make
    from purejaxppo.networks.actor_critic import make_network
    from purejaxppo.ppo import make_ppo

    problems, env, network = list(problems), None, None
    try:
        env = make(run.env, **run.env_params)
    except (ValueError, TypeError) as error:
        problems.append(Problem("env", f": {error}"))
    if env is not None and not any(problem.key.startswith("network") for problem in problems):
        try:
            network = make_network(env, run.network)
        except (ValueError, TypeError) as error:
            problems.append(Problem("network", f": {error}"))
    problems += _device_problems(run.config)
    check(run, problems, source)
    return make_ppo(env, network, run.config)


def _device_problems(config: Config) -> list[Problem]:
    """More devices than JAX sees."""
    import jax

    if not isinstance(config.num_devices, int) or config.num_devices <= jax.local_device_count():
        return []
    text = f" = {config.num_devices}: JAX sees {jax.local_device_count()} ({jax.devices()[0].platform})"
    return [Problem("config.num_devices", f"{text}; nearest valid value: {jax.local_device_count()}")]


def compile_cache() -> Path | None:
    """Return the folder of compiled programs, made if need be; None where the cache is off or not safe to use.

    PUREJAXPPO_COMPILE_CACHE is `off` or a folder; otherwise it lies under XDG_CACHE_HOME or ~/.cache. Programs are
    loaded from it as they are, so it must belong to the user alone; and they fit one kind of processor only.
    """
    choice = os.environ.get("PUREJAXPPO_COMPILE_CACHE", "").strip()
    if choice.lower() in ("off", "0", "no", "false"):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = home if home.is_absolute() else Path.home() / ".cache"
    folder = Path(choice).expanduser() if choice else home / "purejaxppo" / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        print(f"purejaxppo: compile cache off: {folder}: {error.strerror}", file=sys.stderr)
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        print(f"purejaxppo: compile cache off: {folder} can be written by others", file=sys.stderr)
        return None
    return folder / _processor()


def _processor() -> str:
    """A short name for this kind of processor and what it can do."""
    about = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def _use_compile_cache() -> None:
    import jax

    folder = None if os.environ.get("JAX_COMPILATION_CACHE_DIR") else compile_cache()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def train(args: Train) -> int:
    """Check everything, train, evaluate, and leave a run folder."""
    run, problems = read_toml(args.file)
    run = replace(
        run, env=args.env, seed=args.seed, config=args.config, network=args.network, hyperparams=args.hyperparams
    )
    problems += _folder_problems(args.out)
    print(f"loading JAX and {run.env}", flush=True)
    with _aborted_at_once():
        _prepare_cpu(run)
        algo = build(run, problems, str(args.file))
    folder = _claim(args.out, run)
    _use_compile_cache()
    gc.freeze()  # else every collection while JAX traces looks through all of JAX: a fifth of tracing
    return _session(run, algo, folder)


def _prepare_cpu(run: Run) -> None:
    """Let a run use the cores of a CPU as suits its size. Settings that are wrong are told of later, by `build`."""
    from purejaxppo.devices.sharding import prepare_cpu

    try:
        alone = 1 if run.config.num_devices <= 1 else None
        prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, alone)
    except (TypeError, ZeroDivisionError):
        prepare_cpu()


def _folder_problems(out: Path | None) -> list[Problem]:
    try:
        if out is None or not out.exists():
            return [] if out is None else _parent_problems(out)
        if not out.is_dir():
            return [Problem("--out", f" {out}: is a file, not a folder")]
        held = {entry.name for entry in out.iterdir()}
    except OSError as error:
        return [Problem("--out", f" {out}: cannot be used: {error.strerror}")]
    if held & {"config.toml", "metrics.csv", "policy.safetensors"}:
        return [Problem("--out", f" {out}: holds another run; name a new or empty folder")]
    return [Problem("--out", f" {out}: is not empty; name a new or empty folder")] if held else []


def _parent_problems(out: Path) -> list[Problem]:
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return []
    what = "cannot be written to" if parent.is_dir() else "is a file, not a folder"
    return [Problem("--out", f" {out}: {parent} {what}")]


def _claim(out: Path | None, run: Run) -> Path:
    """Make the run folder and write config.toml into it; no two runs get the same one."""
    name = f"{run.env.replace('/', '-')}-{run.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = [out] if out else [Path("runs") / name, *(Path("runs") / f"{name}-{i}" for i in range(2, 100))]
    header = f"# The settings of this run, all of them. purejaxppo {__version__}\n"
    for folder in tries:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "config.toml", "x", encoding="utf-8") as file:
                file.write(header + dump_toml(run))
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise Mistake(f"--out {folder}: cannot be written: {error.strerror}") from None
    raise Mistake(f"--out {tries[0]}: holds another run; name a new or empty folder")


class Outcome(NamedTuple):
    """How a training ended."""

    status: str  # finished, interrupted, diverged
    code: int
    num_updates: int
    seconds: float
    seconds_first_update: float  # most of it is compilation
    policy: Any  # the last one whose numbers were finite; None where there was none
    message: str


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
                evaluations[name] = _play(algo, outcome.policy, run.seed, EVALUATION_EPISODES, name == "greedy")
                print(_told(name, evaluations[name]), flush=True)
    finally:
        _write_results(folder, run, outcome, evaluations)
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
    with csv_sink(folder / "metrics.csv") as write, display(meter.report.total) as show, _signals() as received:
        told: list[int] = []

        def look() -> None:
            if received and not told:
                told.append(received[0])
                show.say("stopping after this chunk (Ctrl-C again stops at once)")

        chunks = _in_background(_chunks(run, algo), look)
        with suppress(KeyboardInterrupt):  # the second Ctrl-C does not wait for the chunk; what was learned stays
            for state, metrics in chunks:
                rows = rows_of(metrics, done, size, meter.report.seconds, time.monotonic() - started)
                bad = next((i for i, row in enumerate(rows) if not _sound(row)), None)
                rows = rows if bad is None else rows[: bad + 1]
                write(rows)
                show.update(meter.chunk(rows))
                first_update = first_update or meter.report.seconds
                kept, done = done, done + len(rows)
                if bad is not None:
                    status, code = "diverged", FAILED
                    message = _diverged(rows[bad], done, kept, run, policy is not None)
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


def _sound(row: Any) -> bool:
    return math.isfinite(row["total_loss"]) and math.isfinite(row["kl"]) and not row["undefined_actions"]


def _diverged(row: Any, update: int, kept: int, run: Run, saved: bool) -> str:
    policy = f"policy.safetensors is that after update {kept}" if saved else "there is no policy worth keeping"
    if row["undefined_actions"]:
        return (
            f"{run.env} allowed no action in {row['undefined_actions']:.0f} states of update {update}: its action mask "
            f"forbade all of them, which must end an episode; {policy}."
        )
    return (
        f"the loss became {row['total_loss']} in update {update} of {run.config.num_updates} "
        f"({row['timesteps']:,} env steps); {policy}. "
        "A smaller learning_rate or max_grad_norm, or scale_rewards, may help."
    )


WORKER = "purejaxppo-chunks"


def _in_background(chunks: Iterator[Any], look: Callable[[], None]) -> Iterator[Any]:
    """Yield from `chunks`, which run in a thread of their own: so Ctrl-C is heard while the device is busy.

    `look` is called ten times a second meanwhile.
    """
    pool = ThreadPoolExecutor(1, WORKER)
    nothing = object()
    try:
        while True:
            future = pool.submit(next, chunks, nothing)
            while not future.done():
                wait([future], timeout=0.1)
                look()
            if (item := future.result()) is nothing:
                return
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _aborted_at_once() -> Iterator[None]:
    """Ctrl-C ends the process here and now: raised while JAX loads, it may end in a callback that swallows it."""

    def handle(*_: Any) -> None:
        os.write(2, b"purejaxppo: aborted\n")
        os._exit(128 + signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect Ctrl-C (and SIGTERM) in a list instead of raising; a second one raises KeyboardInterrupt."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(algo: Any, policy: Any, seed: int, num_episodes: int, greedy: bool) -> dict[str, float]:
    """Play whole episodes and return the figures of their returns and lengths."""
    import jax
    import numpy as np

    from purejaxppo.training.evaluation import evaluate as play

    key = jax.random.fold_in(jax.random.key(seed), 0xE7A1)  # apart from the keys of training
    result = play(algo, policy, key, num_episodes, greedy)
    returns, lengths = np.asarray(result.returns, np.float64), np.asarray(result.lengths, np.float64)
    figures = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "median": np.median(returns)}
    figures |= {"max": returns.max(), "mean_length": lengths.mean()}
    counts = {"episodes": len(returns), "unfinished": int((~np.asarray(result.finished)).sum())}
    return {name: float(f"{value:.7g}") for name, value in figures.items()} | counts


def _told(name: str, e: dict[str, float]) -> str:
    text = f"{name + ' evaluation':<18}  return {e['mean']:.5g} ± {e['std']:.3g}  "
    text += f"({e['min']:.5g} to {e['max']:.5g}, {e['episodes']} episodes)"
    return text + (f"; {e['unfinished']} had not ended" if e["unfinished"] else "")


def _write_results(folder: Path, run: Run, outcome: Outcome, evaluations: dict[str, dict[str, float]]) -> None:
    import jax
    import tomli_w

    from purejaxppo.analysis.curves import plot_curve
    from purejaxppo.tracking.csv_file import read_csv
    from purejaxppo.training.policy_file import write_file

    steps = outcome.num_updates * run.config.timesteps_per_update
    summary = {
        "status": outcome.status,
        "env": run.env,
        "seed": run.seed,
        "num_updates": outcome.num_updates,
        "timesteps": steps,
        "seconds": round(outcome.seconds, 3),
        "seconds_first_update": round(outcome.seconds_first_update, 3),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")} | {"purejaxppo": __version__},
        "evaluation": evaluations,
    }
    write_file(folder / "summary.toml", tomli_w.dumps(summary))
    if outcome.num_updates:
        greedy = evaluations["greedy"]["mean"] if "greedy" in evaluations else None
        title = f"{run.env}, PPO, seed {run.seed}"
        plot_curve(folder / "curve.png", read_csv(folder / "metrics.csv"), title, greedy)


def evaluate(args: Evaluate) -> int:
    """Play whole episodes with the policy of a run folder and print how they went."""
    file, policy_file = args.run_dir / "config.toml", args.run_dir / "policy.safetensors"
    problems = [f"  --num-episodes {args.num_episodes}: must be at least 1"] if args.num_episodes < 1 else []
    problems += [f"  --seed {args.seed}: must lie between 0 and {2**32 - 1}"] if not 0 <= args.seed < 2**32 else []
    problems += [f"  {path}: no such file" for path in (file, policy_file) if not path.is_file()]
    if problems:
        raise Mistake(f"{args.run_dir} cannot be evaluated so:\n" + "\n".join(problems))
    run = load_toml(file)

    from purejaxppo.training.policy_file import CheckpointError, load_policy, read_metadata

    algo = build(run, (), str(file))
    try:
        policy = load_policy(policy_file, algo)
        differences = _differences(run, read_metadata(policy_file).get("config", ""))
    except CheckpointError as error:
        raise Mistake(str(error)) from None
    if differences:
        raise Mistake(f"{file} is not what this policy was trained with:\n" + "\n".join(differences))
    _use_compile_cache()
    name = "sampled" if args.sampled else "greedy"
    print(f"{run.env}: " + _told(name, _play(algo, policy, args.seed, args.num_episodes, not args.sampled)))
    return FINISHED


def _differences(run: Run, trained: str) -> list[str]:
    """What a policy depends on and the config that it was trained with has otherwise; nothing where none was kept."""
    if not trained:
        return []
    before, _ = parse_toml(trained)

    def about(run: Run) -> dict[str, Any]:
        network = {f"network.{name}": value for name, value in vars(run.network).items()}
        params = {f"env_params.{name}": value for name, value in run.env_params.items()}
        return {"env": run.env, "config.normalize_observations": run.config.normalize_observations} | network | params

    old, new = about(before), about(run)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"  {name} = {new.get(name)!r}: it was {old.get(name)!r}" for name in names]


def bench(args: Bench) -> int:
    """Measure, and leave a table, a picture and, where wanted, all numbers as JSON."""
    from purejaxppo.bench.workloads import WORKLOADS

    out = args.out or (args.json.parent if args.json else Path())
    problems = _bench_problems(args, out, list(WORKLOADS))
    if problems:
        raise Mistake("bench cannot be run so:\n" + "\n".join(f"  {problem}" for problem in problems))

    from rich.console import Console

    from purejaxppo.analysis.curves import plot_bench
    from purejaxppo.bench.measure import Effort
    from purejaxppo.bench.measure import bench as measure
    from purejaxppo.tracking.progress import bench_table, duration
    from purejaxppo.training.policy_file import write_file

    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{duration(time.monotonic() - started):>6}  {text}", flush=True)

    chosen = {name: WORKLOADS[name] for name in args.workload}
    curves = WORKLOADS["W1"].run if args.scaling else None
    report = measure(chosen or None, Effort(args.repetitions, args.seconds), say, curves)
    if args.json:
        write_file(args.json, json.dumps(report, indent=1))
    plot_bench(out / "bench.png", report)
    Console().print(bench_table(report))
    print(f"kept: {', '.join(str(path) for path in (args.json, out / 'bench.png') if path)}")
    failed = {name: result["error"] for name, result in report["workloads"].items() if "error" in result}
    for name, error in failed.items():
        print(f"purejaxppo: {name} failed: {error}", file=sys.stderr)
    return FAILED if failed else FINISHED


def _bench_problems(args: Bench, out: Path, names: Sequence[str]) -> list[Problem]:
    """What is wrong with the options: better said now than after minutes."""
    problems = [
        Problem(
            "--workload",
            f" {name}: no such workload; did you mean {' or '.join(nearest(name, names, 2))}? "
            f"(one of {', '.join(names)})",
        )
        for name in args.workload
        if name not in names
    ]
    if not 1 <= args.repetitions <= 1000:
        problems.append(Problem("--repetitions", f" {args.repetitions}: must lie between 1 and 1000"))
    if not 0.0 <= args.seconds <= 3600.0:
        problems.append(Problem("--seconds", f" {args.seconds}: must lie between 0 and 3600"))
    if args.json and args.json.is_dir():
        problems.append(Problem("--json", f" {args.json}: is a folder, not a file"))
    option = "--out" if args.out or not args.json else "--json"
    folders = {"--json": args.json.parent} if args.json else {}
    return problems + [
        Problem(option, f" {folder}: no folder that can be written to")
        for option, folder in (folders | {option: out}).items()
        if not (folder.is_dir() and os.access(folder, os.W_OK))
    ]
