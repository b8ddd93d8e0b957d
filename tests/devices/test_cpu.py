"""A CPU is configured once, before JAX starts, by default only with compiler passes that XLA enables itself."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

import purejaxppo as pp
from purejaxppo.devices import cpu
from purejaxppo.devices.cpu import CPU_FLAGS, FAST_FLAGS, SMALL_FLAGS, SMALL_MINIBATCH, prepare_cpu, xla_flags
from purejaxppo.envs.facts import recorded
from purejaxppo.envs.registry import SUITES

ROOT = Path(__file__).parents[2]


def run_python(code, *args, timeout=1800, **variables):
    """Run `code` in a fresh interpreter whose environment has no settings for XLA or devices but `variables`."""
    unset = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "PUREJAXPPO_FAST_FLAGS")
    env = {name: value for name, value in os.environ.items() if name not in unset} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *args]
    return subprocess.run(command, env=env | variables, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def before_start(monkeypatch):
    """Simulate that JAX has not started; yield the requested numbers of devices."""
    asked = []
    monkeypatch.setattr(cpu, "_has_started", lambda: False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.append((name, value)))
    monkeypatch.setattr(cpu, "count_cores", lambda: 6)
    for name in ("JAX_NUM_CPU_DEVICES", "PUREJAXPPO_FAST_FLAGS", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    return asked


# ---- flags


def test_flags_of_small_minibatches_are_added_to_those_of_all_sizes():
    assert xla_flags() == xla_flags(SMALL_MINIBATCH + 1) == CPU_FLAGS
    assert xla_flags(SMALL_MINIBATCH) == CPU_FLAGS | SMALL_FLAGS


def test_no_default_flag_switches_on_a_pass_that_xla_leaves_off():
    """`true` enables a pass, and so does an extra option without a value."""
    for size in (None, 1, SMALL_MINIBATCH, 10**6):
        flags = xla_flags(size)
        options = flags.pop("xla_backend_extra_options", "").split(",")
        assert "true" not in flags.values()
        assert all("=" in option for option in options if option)


def test_fast_flags_are_added_to_the_others():
    fast = xla_flags(SMALL_MINIBATCH, fast_flags=True)
    options = fast["xla_backend_extra_options"].split(",")
    assert set(options) == {"xla_cpu_small_while_loop_byte_threshold=32768", "xla_cpu_use_multi_output_fusion"}
    assert fast["xla_cpu_copy_insertion_use_region_analysis"] == "true"
    assert set(fast) == {*CPU_FLAGS, *SMALL_FLAGS, *FAST_FLAGS}


@pytest.mark.parametrize("version", [(0, 6, 2), (0, 99, 0)])
def test_untested_versions_of_jax_get_no_flags(monkeypatch, version):
    monkeypatch.setattr(jax, "__version_info__", version)
    assert xla_flags(128, fast_flags=True) == {}


# ---- prepare_cpu


def test_flags_of_the_user_are_kept_and_each_flag_is_added_once(before_start, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_cpu_prefer_vector_width=256")
    prepare_cpu(SMALL_MINIBATCH)
    prepare_cpu(SMALL_MINIBATCH)
    added = " ".join(f"--{name}={value}" for name, value in SMALL_FLAGS.items())
    assert os.environ["XLA_FLAGS"] == f"--xla_a=1 --xla_cpu_prefer_vector_width=256 {added}"


@pytest.mark.parametrize(
    ("minibatch_size", "num_seeds", "num_devices"),
    [
        (SMALL_MINIBATCH, 1, 1),
        (SMALL_MINIBATCH, 2, 6),
        (SMALL_MINIBATCH, None, 6),
        (SMALL_MINIBATCH + 1, 1, 6),
        (None, 1, 6),
    ],
)
def test_a_single_small_run_gets_one_device_and_anything_else_every_core(
    before_start, minibatch_size, num_seeds, num_devices
):
    prepare_cpu(minibatch_size, num_seeds)
    assert before_start == [("jax_num_cpu_devices", num_devices)]


def test_a_number_of_devices_in_the_environment_is_kept(before_start, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    prepare_cpu()
    assert before_start == []
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_prefer_vector_width=512"


@pytest.mark.parametrize(
    ("argument", "variable", "fast"),
    [
        (None, None, False),
        (None, "1", True),
        (None, "0", False),
        (None, "off", False),
        (False, "1", False),
        (True, "0", True),
    ],
)
def test_fast_flags_come_from_the_argument_or_else_from_the_environment(
    before_start, monkeypatch, argument, variable, fast
):
    if variable is not None:
        monkeypatch.setenv("PUREJAXPPO_FAST_FLAGS", variable)
    prepare_cpu(fast_flags=argument)
    assert ("xla_cpu_use_multi_output_fusion" in os.environ["XLA_FLAGS"]) is fast


def test_a_script_prepares_its_cpu_by_one_call():
    code = "import jax, os, purejaxppo as pp; pp.prepare_cpu(128); print(jax.device_count(), os.environ['XLA_FLAGS'])"
    flags = [f"--{name}={value}" for name, value in (CPU_FLAGS | SMALL_FLAGS).items()]
    done = run_python(code)
    assert done.stdout.split() == [str(cpu.count_cores()), *flags], done.stderr


# ---- JAX has started


def test_preparing_after_jax_has_started_warns_and_changes_nothing(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    with pytest.warns(UserWarning, match="prepare_cpu has no effect"):
        prepare_cpu(num_seeds=1)
    assert os.environ["XLA_FLAGS"] == "--xla_a=1"
    assert jax.local_device_count() == 2


def test_no_warning_if_jax_runs_with_these_settings_already(monkeypatch):
    monkeypatch.setattr(cpu, "count_cores", jax.local_device_count)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare_cpu()
    assert not caught
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_prefer_vector_width=512"


def test_no_warning_on_a_gpu(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare_cpu(128, 1)
    assert not caught


# ---- compilation of every environment

COMPILE = """
import sys
import jax
import purejaxppo as pp
from purejaxppo.training.loop import as_traced

size, names = int(sys.argv[1]), sys.argv[2:]
pp.prepare_cpu(size)
h = as_traced(pp.Hyperparams())
for name in names:
    env = pp.make(name)
    kinds = ["mlp", "cnn"] if len(getattr(env.observation_space, "shape", ())) == 3 else ["mlp"]
    for kind in kinds:
        print(name, kind, end=" ", flush=True)
        group = getattr(env, "group_size", 1)
        num_envs = group * -(-size // (4 * group))  # whole teams
        config = pp.Config(num_envs=num_envs, num_steps=8, num_minibatches=2, total_timesteps=1000 * size)
        algo = pp.make_ppo(env, pp.make_network(env, pp.NetworkConfig(kind=kind)), config)
        state = jax.eval_shape(algo.init, jax.random.key(0), h)
        jax.jit(algo.update).lower(state, h).compile()
        print("compiled")
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 2 * SMALL_MINIBATCH])
@pytest.mark.parametrize("suite", SUITES)
def test_every_environment_compiles_with_the_default_flags(suite, size):
    """In a separate process, because a failed check inside XLA ends it; the last line names the environment.

    An environment whose recorded fact is a note, such as a download, is left out.
    """
    names = [name for name in pp.available().get(suite, ()) if not recorded()[f"{suite}/{name}"].note]
    if not names:
        pytest.skip(f"the suite {suite} is not installed")
    done = run_python(COMPILE, str(size), *(f"{suite}/{name}" for name in names))
    assert done.returncode == 0, f"after:\n{done.stdout}\n{done.stderr[-2000:]}"
    lines = [line.split() for line in done.stdout.splitlines() if line.endswith(" compiled")]  # suites print as well
    assert {line[0].removeprefix(f"{suite}/") for line in lines} == set(names)


@pytest.mark.slow
def test_the_command_line_trains_the_environment_on_which_multi_output_fusion_aborts(tmp_path):
    code = "import sys; from purejaxppo.cli.main import main; sys.exit(main(sys.argv[1:]))"
    config = str(ROOT / "configs" / "minatar_breakout.toml")
    options = ["--env", "SpaceInvaders-MinAtar", "--config.total-timesteps", "16384", "--out", str(tmp_path / "run")]
    done = run_python(code, "train", config, *options, PUREJAXPPO_COMPILE_CACHE="off")
    assert done.returncode == 0, done.stderr[-2000:]
