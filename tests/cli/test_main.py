"""The command line: mistakes are named all at once, runs leave what they should, and stop when told to."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import fakes
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from purejaxppo.cli import evaluate_command, main, train_command
from purejaxppo.cli.overrides import as_tables, overlaid
from purejaxppo.config.checks import check
from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import load_toml
from purejaxppo.devices import compile_cache
from purejaxppo.metrics import Metrics
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training import runs

ROOT = Path(__file__).parents[2]
TINY = """
env = "CartPole-v1"
seed = 3
[config]
num_envs = 8
num_steps = 16
num_epochs = 2
num_minibatches = 2
total_timesteps = 1_000
[network]
hidden_sizes = [8]
"""
RUN_FILES = {"config.toml", "metrics.csv", "curve.png", "policy.safetensors", "summary.toml"}


@pytest.fixture(autouse=True)
def no_compile_cache(monkeypatch):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", "off")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def command(args, env=None, script=("-m", "purejaxppo"), **kwargs) -> subprocess.Popen:
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | (env or {})
    args = [sys.executable, *script, *map(str, args)]
    return subprocess.Popen(args, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def mistake(capsys, *args) -> str:
    """Run a command that must fail for a mistake of the user; its message."""
    try:
        code = main.main([str(arg) for arg in args])
    except SystemExit as stop:  # what tyro finds
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in out + err
    return err


# ---- mistakes


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(train_command, "_session", lambda *_: pytest.fail("training began"))


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        ("[hyperparams]\nlearning_rat = 1e-3", ["hyperparams.learning_rat", "did you mean learning_rate?"]),
        ('[hyperparams]\ngamma = "high"', ['hyperparams.gamma = "high"', "expected a number, got a string"]),
        ("[hyperparams]\ngamma = 1.01", ["between 0 and 1; nearest valid value: 1"]),
        ("[hyperparams]\nclip_eps = nan", ["hyperparams.clip_eps = nan"]),
        ("[env_params]\nmax_stepz = 10", ["env: ", "max_stepz", "max_steps"]),
    ],
)
def test_a_mistake_in_the_file(capsys, tiny, tmp_path, nothing_runs, extra, parts):
    tiny.write_text(TINY + extra)
    message = mistake(capsys, "train", tiny, "--out", tmp_path / "run")
    assert message.startswith(f"purejaxppo: error: {tiny}: 1 problem\n")
    for part in parts:
        assert part in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--config.num-minibatches", "3"], ["config.num_minibatches = 3", "2 or 4 (or num_envs = 6 or 9)"]),
        (["--config.total-timesteps", "100"], ["nearest valid value: 128"]),
        (["--hyperparams.gamma", "nan"], ["hyperparams.gamma = nan"]),
        (["--config.num-envs", "-8"], ["config.num_envs = -8"]),
        (["--seed", "-1"], ["seed = -1"]),
        (["--env", "CartPoll-v1"], ["unknown environment 'CartPoll-v1'", "CartPole-v1, "]),
        (["--network.kind", "cnn"], ["network: "]),
    ],
)
def test_a_mistake_on_the_command_line(capsys, tiny, nothing_runs, args, parts):
    message = mistake(capsys, "train", tiny, *args)
    assert "1 problem\n" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--config.num-envs", "many"], ['config.num_envs = "many": expected an integer']),
        (["--config.num-env", "8"], ["config.num_env: no such key; did you mean num_envs?"]),
        (["--config.objective", "clop"], ['config.objective = "clop"', 'did you mean "clip"?']),
        (["--config.scale-rewards", "yes"], ["config.scale_rewards", "true or false"]),
        (["--network.hidden-sizes", "64", "x"], ["network.hidden_sizes", "list of integers"]),
        (["--confi.num-envs=8"], ["--confi.num-envs: no such option; did you mean --config.num-envs?"]),
        (["--config", "8"], ["--config: say which of its settings"]),
        (["--env-params.gravity", "8"], ["--env-params.gravity: settings of the environment stand in the file"]),
        (["--sed", "3"], ["--sed: no such option; did you mean --seed?"]),
    ],
)
def test_an_option_that_cannot_be_read(capsys, tiny, nothing_runs, args, parts):
    message = mistake(capsys, "train", tiny, *args)
    assert "1 problem\n" in message
    for part in parts:
        assert part in message


def test_options_that_cannot_be_read_come_in_one_message_with_all_else(capsys, tiny, tmp_path, nothing_runs):
    (tmp_path / "metrics.csv").write_text("precious")
    tiny.write_text(TINY + "[hyperparams]\ngamm = 0.9\n")
    args = ["--config.num-env", "8", "--hyperparams.clip-eps", "wide", "--hyperparams.gamma=7", "--env", "CartPoll-v1"]
    message = mistake(capsys, "train", tiny, *args, "--config.num-minibatches", "3", "--out", tmp_path)
    assert "7 problems\n" in message
    for part in ("config.num_env:", "clip_eps =", "gamm:", "gamma = 7", "CartPoll-v1", "num_minibatches = 3", "--out"):
        assert part in message


def test_options_that_can_be_read_pass_through(tiny):
    words = ["--config.num-envs=8", "--hyperparams.learning-rate", "1e-3", "--config.no-normalize-observations"]
    tables, problems = as_tables([*words, "--network.hidden-sizes", "8", "9", "--seed", "3", "--config.scale-rewards"])
    config = {"num_envs": 8, "normalize_observations": False, "scale_rewards": True}
    assert problems == []
    assert tables == {
        "config": config,
        "hyperparams": {"learning_rate": 1e-3},
        "network": {"hidden_sizes": [8, 9]},
        "seed": 3,
    }
    assert overlaid({"env": "A", "config": {"num_envs": 2, "num_steps": 4}}, tables) == tables | {
        "env": "A",
        "config": config | {"num_steps": 4},
    }


def test_an_unknown_environment_names_the_three_nearest(capsys, tiny, nothing_runs):
    message = mistake(capsys, "train", tiny, "--env", "Pendulum-v0")
    names = re.search(r"the nearest are ([^(]*)", message).group(1).split(",")
    assert len(names) == 3
    assert names[0] == "Pendulum-v1"


def test_a_missing_extra_is_named(capsys, tiny, nothing_runs, monkeypatch):
    monkeypatch.setattr("purejaxppo.envs.registry.installed", lambda suite: False)
    message = mistake(capsys, "train", tiny, "--env", "gymnax/CartPole-v1")
    assert "pip install" in message
    assert "gymnax" in message


def test_all_mistakes_come_in_one_message_and_nothing_is_touched(capsys, tmp_path, nothing_runs):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text("precious")
    bad = tmp_path / "bad.toml"
    bad.write_text(
        'env = "CartPole-v9"\n[config]\nnum_env = 4\nnum_minibatches = 3\nnum_steps = "x"\n'
        '[network]\nkind = "mpl"\n[hyperparams]\ngamma = nan\n'
    )
    message = mistake(capsys, "train", bad, "--out", run, "--hyperparams.clip-eps", "-1", "--config.n-step", "0")
    keys = ["config.num_env", "config.num_steps", "network.kind", "hyperparams.gamma", "hyperparams.clip_eps"]
    for key in [*keys, "config.n_step", "env", "--out"]:
        assert f"\n  {key}" in message
    assert f"{bad}: 8 problems\n" in message
    assert (run / "metrics.csv").read_text() == "precious"
    assert [entry.name for entry in run.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(("name", "part"), [("config.toml", "holds another run"), ("thesis.tex", "is not empty")])
def test_no_folder_with_something_in_it_is_used(capsys, tiny, tmp_path, nothing_runs, name, part):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("precious")
    assert part in mistake(capsys, "train", tiny, "--out", tmp_path / "run")
    assert (tmp_path / "run" / name).read_text() == "precious"


def test_a_file_is_no_folder(capsys, tiny, nothing_runs):
    assert "is a file, not a folder" in mistake(capsys, "train", tiny, "--out", tiny)
    assert tiny.read_text() == TINY


@pytest.mark.parametrize("text", [None, "[config\n"])
def test_a_file_that_cannot_be_read(capsys, tmp_path, nothing_runs, text):
    path = tmp_path / "x.toml"
    if text is not None:
        path.write_text(text)
    assert f"purejaxppo: error: {path}: 1 problem" in mistake(capsys, "train", path)


@pytest.mark.parametrize("before", [["--seed", "3"], ["--config.num-env", "4", "--seed=3"]])
def test_options_may_stand_before_the_file(capsys, tiny, nothing_runs, before):
    message = mistake(capsys, "train", *before, tiny, "--hyperparams.gamma", "7", "--hyperparams.clip-eps", "abc")
    assert f"{len(before)} problems" in message  # the misspelt option is one more
    assert "hyperparams.gamma = 7" in message
    assert 'hyperparams.clip_eps = "abc"' in message


def test_more_devices_than_there_are(capsys, tiny, nothing_runs):
    message = mistake(capsys, "train", tiny, "--config.num-devices", "4", "--hyperparams.gamma", "7")
    assert "2 problems\n" in message
    assert f"config.num_devices = 4: JAX sees {jax.local_device_count()} (cpu); nearest valid value: " in message


def test_an_out_that_cannot_be_made(capsys, tiny, tmp_path, nothing_runs):
    message = mistake(capsys, "train", tiny, "--out", tiny / "run", "--hyperparams.gamma", "7")
    assert "2 problems\n" in message
    assert f"{tiny} is a file, not a folder" in message
    assert "too long" in mistake(capsys, "train", tiny, "--out", tmp_path / ("x" * 300))


def test_two_runs_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(env="gymnax/CartPole-v1", seed=7)
    folders = {runs.claim_folder(None, run) for _ in range(3)}
    assert len(folders) == 3
    assert all(re.fullmatch(r"runs/gymnax-CartPole-v1-7-\d{8}-\d{6}(-\d)?", str(folder)) for folder in folders)
    with pytest.raises(UsageError, match="holds another run"):
        runs.claim_folder(next(iter(folders)), run)


@pytest.mark.parametrize("args", [[], ["training"], ["train"]])
def test_half_a_command(capsys, args):
    assert mistake(capsys, *args)


# ---- looking around


def test_envs_lists_what_make_takes(capsys):
    assert main.main(["envs"]) == 0
    lines = capsys.readouterr().out.split()
    assert "gymnax/CartPole-v1" in lines
    assert len(lines) == len(set(lines)) > 20
    assert main.main(["envs", "gymnax"]) == 0
    assert set(capsys.readouterr().out.split()) <= set(lines)
    assert "did you mean gymnax?" in mistake(capsys, "envs", "gymnaz")


def test_help_shows_the_defaults_of_the_file_and_imports_nothing_heavy(tiny):
    script = (
        "import sys\nfrom purejaxppo.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('HEAVY', [m for m in ('gymnax', 'matplotlib') if m in sys.modules])"
    )
    code, out, err = finished(command(["train", tiny, "--help"], script=("-c", script)))
    assert (code, err) == (0, "")
    assert re.search(r"--config.num-envs INT\W+N, environments that run in parallel\s+\(default: 8\)", out)
    assert "HEAVY []" in out


def test_version(capsys):
    assert main.main(["--version"]) == 0
    assert re.fullmatch(r"purejaxppo \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


# ---- a real run


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """One run of the program as a user starts it -> (folder, standard output, environment of the process)."""
    home = tmp_path_factory.mktemp("real")
    (home / "tiny.toml").write_text(TINY)
    env = {"XDG_CACHE_HOME": str(home / "cache"), "PUREJAXPPO_COMPILE_CACHE": ""}
    args = ["train", "tiny.toml", "--out", "run", "--seed", "4", "--hyperparams.learning-rate", "1e-3"]
    code, out, err = finished(command(args, env, cwd=home))
    assert (code, err) == (0, "")
    return home / "run", out, env


def test_a_run_folder_holds_what_was_asked_for(real_run):
    folder, _, _ = real_run
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    run = load_toml(folder / "config.toml")
    assert (run.seed, run.hyperparams.learning_rate, run.config.num_envs) == (4, 1e-3, 8)
    metrics = read_csv(folder / "metrics.csv")
    assert tuple(metrics) == ("timesteps", "wall_time", *(name for name in Metrics._fields if name != "diagnostics"))
    assert metrics["timesteps"].tolist() == [128 * i for i in range(1, 8)]
    assert (np.diff(metrics["wall_time"]) > 0).all()
    assert np.isfinite(metrics["total_loss"]).all()
    np.testing.assert_allclose(metrics["first_ratio_error"], 0.0, atol=1e-5)
    kernels = [array for name, array in load_file(folder / "policy.safetensors").items() if "kernel" in name]
    assert {array.shape for array in kernels} >= {(4, 8), (8, 2), (8, 1)}
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_output_is_plain_and_tells_the_result(real_run):
    folder, out, _ = real_run
    assert "\x1b" not in out
    summary = tomllib.loads((folder / "summary.toml").read_text())
    assert (summary["status"], summary["num_updates"], summary["timesteps"]) == ("finished", 7, 896)
    for name in ("greedy", "sampled"):
        assert summary["evaluation"][name]["episodes"] == 128
        assert f"return {summary['evaluation'][name]['mean']:.5g} " in out
    assert "100%" in out


def test_the_same_file_gives_the_same_run_from_the_compile_cache(real_run):
    folder, _, env = real_run
    cache = Path(env["XDG_CACHE_HOME"]) / "purejaxppo" / "xla"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    before = {path.name for path in cache.rglob("*-cache")}
    assert any("chunk" in name for name in before)
    code, _, err = finished(command(["train", "run/config.toml", "--out", "again"], env, cwd=folder.parent))
    assert (code, err) == (0, "")
    assert {path.name for path in cache.rglob("*-cache")} == before
    first, second = (read_csv(at / "metrics.csv") for at in (folder, folder.parent / "again"))
    for name in first.keys() - {"wall_time"}:
        np.testing.assert_array_equal(first[name], second[name])
    first, second = (load_file(at / "policy.safetensors") for at in (folder, folder.parent / "again"))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("name", ["greedy", "sampled"])
def test_evaluate_finds_the_figures_that_train_printed(real_run, capsys, name):
    folder, out, _ = real_run
    args = ["evaluate", str(folder), "--seed", "4", *(["--sampled"] if name == "sampled" else [])]
    assert main.main(args) == 0
    told = next(line for line in out.splitlines() if line.startswith(name))
    assert capsys.readouterr().out == f"CartPole-v1: {told}\n"


def test_evaluate_names_what_is_wrong_with_a_run(real_run, capsys, tmp_path):
    message = mistake(capsys, "evaluate", tmp_path, "--num-episodes", "0")
    for part in ("config.toml: no such file", "policy.safetensors: no such file", "--num-episodes 0"):
        assert part in message
    config, policy = ((real_run[0] / name).read_bytes() for name in ("config.toml", "policy.safetensors"))
    (tmp_path / "config.toml").write_bytes(config.replace(b"    8,\n", b"    9,\n"))
    (tmp_path / "policy.safetensors").write_bytes(policy)
    assert "not a policy of this network" in mistake(capsys, "evaluate", tmp_path)
    (tmp_path / "config.toml").write_bytes(config)
    (tmp_path / "policy.safetensors").write_bytes(policy[:-9])
    assert "damaged" in mistake(capsys, "evaluate", tmp_path)


def test_evaluate_refuses_another_network_of_the_same_shapes(real_run, capsys, tmp_path):
    folder = real_run[0]
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "config.toml"
    text = file.read_text()
    assert 'activation = "tanh"' in text
    file.write_text(text.replace('activation = "tanh"', 'activation = "relu"'))
    message = mistake(capsys, "evaluate", tmp_path / "copy")
    assert "network.activation = 'relu': it was 'tanh'" in message
    file.write_text(text.replace("num_epochs = ", "num_epochs = 1"))  # nothing that the policy depends on
    assert main.main(["evaluate", str(tmp_path / "copy"), "--num-episodes", "2"]) == 0


# ---- how runs end


def faked(monkeypatch, **kwargs) -> None:
    def build(run, problems=(), source=""):
        check(run, problems, source)
        return fakes.fake_algorithm(run.config, **kwargs)

    monkeypatch.setattr(evaluate_command, "build", build)
    figures = {"mean": 1.0, "std": 0.0, "min": 1.0, "median": 1.0, "max": 1.0, "mean_length": 1.0}
    monkeypatch.setattr(evaluate_command, "evaluate_policy", lambda *_: figures | {"episodes": 128, "unfinished": 0})


@pytest.mark.parametrize("num_updates", [1, 2, 7, 450])
def test_every_update_is_logged_once_whatever_the_chunks(monkeypatch, tiny, tmp_path, num_updates):
    faked(monkeypatch)
    args = ["train", tiny, "--out", tmp_path / "run", "--config.total-timesteps", 128 * num_updates]
    assert main.main([str(arg) for arg in args]) == 0
    metrics = read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["total_loss"].tolist() == list(range(1, num_updates + 1))
    assert metrics["timesteps"].tolist() == [128 * i for i in range(1, num_updates + 1)]
    assert load_file(tmp_path / "run" / "policy.safetensors")["params"].tolist() == [num_updates] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(monkeypatch, capsys, tiny, tmp_path, value):
    faked(monkeypatch, bad_update=5, bad_value=value)
    assert main.main(["train", str(tiny), "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert f"the loss became {value} in update 5 of 7 (640 env steps)" in message
    assert "policy.safetensors is that after update 4" in message
    assert "Traceback" not in message
    assert len(read_csv(tmp_path / "run" / "metrics.csv")["kl"]) == 5
    assert load_file(tmp_path / "run" / "policy.safetensors")["params"].tolist() == [4.0] * 3
    summary = tomllib.loads((tmp_path / "run" / "summary.toml").read_text())
    assert summary["status"] == "diverged"
    assert summary["evaluation"] == {}


def test_a_loss_broken_from_the_start_leaves_no_policy(monkeypatch, capsys, tiny, tmp_path):
    faked(monkeypatch, bad_update=1)
    assert main.main(["train", str(tiny), "--out", str(tmp_path / "run")]) == 1
    assert "no policy worth keeping" in capsys.readouterr().err
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == RUN_FILES - {"policy.safetensors"}


def start_long_run(tiny, folder, cost) -> subprocess.Popen:
    args = [cost, "train", tiny, "--out", folder, "--config.total-timesteps", 128 * 10**6]
    return command(args, script=(str(ROOT / "tests" / "fakes.py"),))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly_and_keeps_what_was_learned(tiny, tmp_path, number):
    folder = tmp_path / "run"
    process = start_long_run(tiny, folder, 1e4)
    wait_for(lambda: (folder / "metrics.csv").exists() and len((folder / "metrics.csv").read_text()) > 2000)
    process.send_signal(number)
    code, out, err = finished(process)
    assert code == 128 + number
    assert err == f"purejaxppo: stopped before its end; how good it is: purejaxppo evaluate {folder}\n"
    assert "interrupted: " in out
    assert out.count("stopping after this chunk") <= 1
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    updates = len(read_csv(folder / "metrics.csv")["kl"])
    assert load_file(folder / "policy.safetensors")["params"].tolist() == [updates] * 3
    assert tomllib.loads((folder / "summary.toml").read_text())["num_updates"] == updates < 10**6


def test_a_second_ctrl_c_does_not_wait_for_the_device(tiny, tmp_path):
    process = start_long_run(tiny, tmp_path / "run", 1e9)  # the first update alone takes many minutes
    while "compiling" not in process.stdout.readline():
        pass
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert "stopping" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = finished(process)
    assert (code, err) == (130, "purejaxppo: stopped before its end\n")
    assert "stopping" not in out  # it was said once


def test_a_second_ctrl_c_keeps_what_was_learned(tiny, tmp_path):
    folder = tmp_path / "run"
    process = start_long_run(tiny, folder, 2e7)  # an update takes about a second
    wait_for(lambda: (folder / "metrics.csv").exists() and len((folder / "metrics.csv").read_text().splitlines()) > 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130
    assert "purejaxppo: stopped before its end; how good it is" in err
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    updates = len(read_csv(folder / "metrics.csv")["kl"])
    assert load_file(folder / "policy.safetensors")["params"].tolist() == [updates] * 3


def test_ctrl_c_while_jax_loads_ends_the_process_with_nothing_made(tiny, tmp_path):
    process = command(["train", tiny, "--out", tmp_path / "run"])
    assert "loading JAX" in process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert (code, err) == (130, "purejaxppo: aborted\n")
    assert not (tmp_path / "run").exists()


# ---- compile cache


def test_the_cache_can_be_switched_off_and_moved(monkeypatch, tmp_path):
    for word in ("off", "OFF", "0", "no"):
        monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", word)
        assert compile_cache.compile_cache() is None
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path / "here"))
    assert compile_cache.compile_cache().parent == tmp_path / "here"
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compile_cache.compile_cache().parent == tmp_path / "xdg" / "purejaxppo" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache.compile_cache().parent == tmp_path / ".cache" / "purejaxppo" / "xla"
    assert stat.S_IMODE((tmp_path / ".cache" / "purejaxppo" / "xla").stat().st_mode) == 0o700


def test_a_cache_that_others_can_write_is_not_used(monkeypatch, tmp_path, capsys):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(shared))
    assert compile_cache.compile_cache() is None
    assert "can be written by others" in capsys.readouterr().err


def test_a_cache_that_cannot_be_made_is_no_obstacle(monkeypatch, tiny, capsys):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tiny / "cache"))
    assert compile_cache.compile_cache() is None
    assert "compile cache off" in capsys.readouterr().err


def test_only_the_command_line_sets_a_cache():
    assert jax.config.jax_compilation_cache_dir is None
