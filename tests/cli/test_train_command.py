"""`purejaxppo train` reports all errors at once, and writes a complete run folder."""

import stat
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import RUN_FILES, TINY, finish, problems_of, start
from readable import readable
from safetensors.numpy import load_file

from purejaxppo.cli.main import main
from purejaxppo.config.toml import load_toml
from purejaxppo.metrics import Metrics
from purejaxppo.tracking.csv_file import read_csv

# ---- errors


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ("[hyperparams]\nlearning_rat = 1e-3", ("hyperparams.learning_rat", "unknown")),
        ('[hyperparams]\ngamma = "high"', ("hyperparams.gamma", "type")),
        ("[hyperparams]\ngamma = 1.01", ("hyperparams.gamma", "range")),
        ("[hyperparams]\nclip_eps = nan", ("hyperparams.clip_eps", "range")),
        ("[env_params]\nmax_stepz = 10", ("env", "environment")),
    ],
)
def test_an_error_in_the_file(tiny, tmp_path, nothing_runs, extra, problem):
    tiny.write_text(TINY + extra)
    assert problems_of("train", tiny, "--out", tmp_path / "run") == {problem}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--config.num-minibatches", "3"], ("config.num_minibatches", "conflict")),
        (["--total-timesteps", "100"], ("config.total_timesteps", "conflict")),
        (["--total-timesteps", "1000000000000000"], ("config.total_timesteps", "conflict")),
        (["--hyperparams.gamma", "nan"], ("hyperparams.gamma", "range")),
        (["--adam-eps", "1e-50"], ("hyperparams.adam_eps", "range")),
        (["--config.num-envs", "-8"], ("config.num_envs", "range")),
        (["--seed", "-1"], ("seed", "range")),
        (["--env", "CartPoll-v1"], ("env", "environment")),
        (["--env-params.gravitas", "8"], ("env", "environment")),
        (["--network.kind", "cnn"], ("network", "network")),
        (["--config.num-envs", "many"], ("config.num_envs", "type")),
        (["--config.num-env", "8"], ("config.num_env", "unknown")),
        (["--config.objective", "clop"], ("config.objective", "choice")),
        (["--config.scale-rewards", "yes"], ("config.scale_rewards", "type")),
        (["--hidden-sizes", "64", "x"], ("network.hidden_sizes", "type")),
        (["--hyperparams.lr", "1"], ("hyperparams.lr", "unknown")),
        (["--confi.num-envs=8"], ("--confi.num-envs", "unknown")),
        (["--num-devices", "4"], ("config.num_devices", "range")),
    ],
    ids=readable,
)
def test_an_error_on_the_command_line(tiny, tmp_path, nothing_runs, args, problem):
    assert problems_of("train", tiny, "--out", tmp_path / "run", *args) == {problem}
    assert not (tmp_path / "run").exists()


def test_all_errors_are_in_one_message_and_no_file_changes(capsys, tmp_path, nothing_runs):
    """The whole printed message, checked once."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text("precious")
    bad = tmp_path / "bad.toml"
    bad.write_text(
        'env = "CartPole-v9"\n[config]\nnum_env = 4\nnum_minibatches = 3\nnum_steps = "x"\n'
        '[network]\nkind = "mpl"\n[hyperparams]\ngamma = nan\n'
    )
    args = ["train", bad, "--out", run, "--hyperparams.clip-eps", "-1", "--n-step", "0", "--quiet"]
    assert main([str(arg) for arg in args]) == 2
    head, *lines = capsys.readouterr().err.replace(str(tmp_path), "TMP").splitlines()
    assert head == "purejaxppo: error: TMP/bad.toml: 9 problems"
    assert lines[:-1] == [
        "  config.num_env: no such key; did you mean num_envs?",
        '  config.num_steps = "x": expected an integer, got a string',
        "  config.n_step = 0: must lie between 1 and 2147483647; nearest valid value: 1",
        '  network.kind = "mpl": no such choice; did you mean "mlp"? (one of mlp, cnn, gru, lstm, lru)',
        "  hyperparams.gamma = nan: must lie between 0 and 1",
        "  hyperparams.clip_eps = -1.0: must be above 0 (inf: off)",
        "  --quiet: no such option",
        "  --out TMP/run: holds another run; name a new or empty folder",
    ]
    assert lines[-1].startswith("  env: ")
    assert (run / "metrics.csv").read_text() == "precious"
    assert [entry.name for entry in run.iterdir()] == ["metrics.csv"]


def test_a_file_is_not_a_run_folder(tiny, nothing_runs):
    assert problems_of("train", tiny, "--out", tiny, "--gamma", "7") == {
        ("--out", "file"),
        ("hyperparams.gamma", "range"),
    }
    assert tiny.read_text() == TINY


def test_an_incomplete_command(nothing_runs):
    assert problems_of("train") == {("CONFIG", "missing")}
    assert problems_of("train", "--gamma", "7") == {("CONFIG", "missing"), ("hyperparams.gamma", "range")}


@pytest.mark.parametrize("content", [None, "[config\n"])
def test_a_file_that_cannot_be_read(tmp_path, nothing_runs, content):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_text(content)
    assert {kind for _, kind in problems_of("train", path)} == {"file"}


# ---- choice of the settings


def test_an_unknown_name_is_taken_for_an_environment():
    assert problems_of("train", "CartPoll-v1") == {("env", "environment")}


def test_a_missing_extra_is_named(capsys, tiny, nothing_runs, monkeypatch):
    monkeypatch.setattr("purejaxppo.envs.registry.installed", lambda suite: False)
    assert main(["train", str(tiny), "--env", "gymnax/CartPole-v1"]) == 2
    assert "pip install" in capsys.readouterr().err


# ---- a real run

# Replaces the process by the command line with its standard output closed, as `>&-` does.
CLOSING = (
    "import os, sys; os.close(1); args = ['-m', 'purejaxppo', 'train', sys.argv[1], '--out', sys.argv[2]]; "
    "os.execv(sys.executable, [sys.executable, *args])"
)


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """Run the program as a user does -> (folder, standard output, standard error, environment)."""
    home = tmp_path_factory.mktemp("real")
    (home / "tiny.toml").write_text(TINY)
    # The compile cache keeps every program, however quickly this machine compiles it.
    env = {
        "XDG_CACHE_HOME": str(home / "cache"),
        "PUREJAXPPO_COMPILE_CACHE": "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    args = ["train", "tiny.toml", "--out", "run", "--seed", "4", "--learning-rate", "1e-3", "--n-step", "7"]
    code, out, err = finish(start(args, env, cwd=home))
    assert code == 0
    return home / "run", out, err, env


def test_a_run_folder_is_complete(real_run):
    folder = real_run[0]
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    run = load_toml(folder / "config.toml")
    assert (run.seed, run.hyperparams.learning_rate, run.config.num_envs) == (4, 1e-3, 8)
    metrics = read_csv(folder / "metrics.csv")
    names = (name for name in Metrics._fields if name not in ("diagnostics", "extra"))
    assert tuple(metrics) == ("timesteps", "wall_time", *names)
    assert metrics["timesteps"].tolist() == [128 * i for i in range(1, 8)]
    assert (np.diff(metrics["wall_time"]) > 0).all()
    assert np.isfinite(metrics["total_loss"]).all()
    np.testing.assert_allclose(metrics["first_ratio_error"], 0.0, atol=1e-5)
    kernels = [array for name, array in load_file(folder / "policy.safetensors").items() if "kernel" in name]
    assert {array.shape for array in kernels} >= {(4, 8), (8, 2), (8, 1)}
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_output_is_plain_and_contains_the_result(real_run):
    folder, out, _, _ = real_run
    assert "\x1b" not in out
    summary = tomllib.loads((folder / "summary.toml").read_text())
    assert (summary["status"], summary["num_updates"], summary["timesteps"]) == ("finished", 7, 896)
    for name in ("greedy", "sampled"):
        assert summary["evaluation"][name]["episodes"] == 128
        assert f"return {summary['evaluation'][name]['mean']:.5g} " in out
    assert "100%" in out


def test_settings_without_effect_draw_one_warning(real_run):
    lines = real_run[2].splitlines()
    assert lines == ["purejaxppo: warning: settings without effect", '  config.n_step = 7: needs targets = "n_step"']


def test_the_same_file_gives_the_same_run_from_the_compile_cache(real_run):
    """Metrics and policy file are bitwise equal, and no program is compiled again."""
    folder, _, _, env = real_run
    cache = Path(env["XDG_CACHE_HOME"]) / "purejaxppo" / "xla"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    before = {path.name for path in cache.rglob("*-cache")}
    assert any("chunk" in name for name in before)
    code, _, _ = finish(start(["train", "run/config.toml", "--out", "again"], env, cwd=folder.parent))
    assert code == 0
    assert {path.name for path in cache.rglob("*-cache")} == before
    again = folder.parent / "again"
    first, second = (read_csv(at / "metrics.csv") for at in (folder, again))
    for name in first.keys() - {"wall_time"}:
        np.testing.assert_array_equal(first[name], second[name])
    assert (folder / "policy.safetensors").read_bytes() == (again / "policy.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["greedy", "sampled"])
@pytest.mark.parametrize("file", ["", "policy.safetensors"])
def test_evaluate_gives_the_figures_that_train_printed(real_run, capsys, name, file):
    """With the folder, and with the policy file only."""
    folder, out, _, _ = real_run
    args = ["evaluate", str(folder / file), "--seed", "4", *(["--sampled"] if name == "sampled" else [])]
    assert main(args) == 0
    printed = next(line for line in out.splitlines() if line.startswith(name))
    assert capsys.readouterr().out == f"CartPole-v1: {printed}\n"


def test_a_closed_standard_output_does_not_affect_the_run(real_run, tiny, tmp_path):
    """There is no traceback, and no printed text ends up in a file."""
    code, _, err = finish(start([CLOSING, tiny, tmp_path / "run"], real_run[3], script=("-c",)))
    assert (code, "Traceback" in err) == (0, False)
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == RUN_FILES
    assert len(read_csv(tmp_path / "run" / "metrics.csv")["kl"]) == 7


def test_the_device_count_that_jax_sees_is_named(capsys, tiny, nothing_runs):
    assert main(["train", str(tiny), "--num-devices", "64"]) == 2
    assert f"JAX sees {jax.local_device_count()} (cpu)" in capsys.readouterr().err


def test_an_unknown_environment_names_similar_ones(capsys, tiny, nothing_runs):
    assert main(["train", str(tiny), "--env", "Pendulum-v0"]) == 2
    assert "similar: Pendulum-v1" in capsys.readouterr().err


@pytest.mark.parametrize(("args", "fast"), [([], None), (["--fast-flags"], True), (["--fast-flags", "false"], None)])
def test_the_cpu_is_prepared_for_the_size_of_the_run(monkeypatch, tiny, nothing_runs, args, fast):
    """The environment variable applies unless the option is given."""
    asked = []
    monkeypatch.setattr("purejaxppo.devices.cpu.prepare_cpu", lambda *given: asked.append(given))
    assert problems_of("train", tiny, "--num-devices", "1000", *args)
    assert asked == [(64, None, fast)]


def test_a_run_that_does_not_fit_the_memory_leaves_nothing(monkeypatch, nothing_runs, capsys, tmp_path):
    monkeypatch.setenv("PUREJAXPPO_MEMORY", str(10**10))
    out = tmp_path / "run"
    args = ["train", "configs/catch.toml", "--network.hidden-sizes", "100000", "100000", "--out", str(out)]
    assert main(args) == 3
    message = capsys.readouterr().err
    for part in ("parameters and optimizer state", "240 GB", "rollout", "network.hidden_sizes = [6250, 6250]"):
        assert part in message
    assert not out.exists()
