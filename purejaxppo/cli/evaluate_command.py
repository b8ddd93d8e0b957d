"""`purejaxppo evaluate`."""

from typing import Any

from purejaxppo.cli.commands import Evaluate
from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import load_toml, parse_toml
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.runs import build, evaluate_policy, evaluation_line


def run_evaluate(args: Evaluate) -> int:
    """Play whole episodes with the policy of a run folder and print how they went."""
    file, policy_file = args.run_dir / "config.toml", args.run_dir / "policy.safetensors"
    problems = [f"  --num-episodes {args.num_episodes}: must be at least 1"] if args.num_episodes < 1 else []
    problems += [f"  --seed {args.seed}: must lie between 0 and {2**32 - 1}"] if not 0 <= args.seed < 2**32 else []
    problems += [f"  {path}: no such file" for path in (file, policy_file) if not path.is_file()]
    if problems:
        raise UsageError(f"{args.run_dir} cannot be evaluated so:\n" + "\n".join(problems))
    run = load_toml(file)

    from purejaxppo.training.policy_file import CheckpointError, load_policy, read_metadata

    algo = build(run, (), str(file))
    try:
        policy = load_policy(policy_file, algo)
        differences = _differences(run, read_metadata(policy_file).get("config", ""))
    except CheckpointError as error:
        raise UsageError(str(error)) from None
    if differences:
        raise UsageError(f"{file} is not what this policy was trained with:\n" + "\n".join(differences))
    use_compile_cache()
    name = "sampled" if args.sampled else "greedy"
    print(
        f"{run.env}: "
        + evaluation_line(name, evaluate_policy(algo, policy, args.seed, args.num_episodes, not args.sampled))
    )
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
