"""The comparison alternates the sides, gives both the same flags, and computes valid intervals."""

import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom
from scripts import load_script

from purejaxppo.devices.cpu import CPU_FLAGS, FAST_FLAGS, SMALL_FLAGS
from purejaxppo.envs import Discrete, Env, box

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

WORKER = """
import json, sys
spec = json.loads(sys.argv[-1])
steps = spec["config"]["total_timesteps"]
print("a greeting")
print(json.dumps({"ready": True, "peer": "fake", "versions": {}, "compile_seconds": 1.0}), flush=True)
for line in sys.stdin:
    seed = int(line.split()[1])
    reply = {"seconds": FACTOR * (1.0 + seed), "env_steps": steps, "final_returns": [float(seed)]}
    points = spec.get("curve", 0)
    reply["curve"] = [
        {"env_steps": steps * i // points, "minutes": FACTOR * i, "return": 10.0 * i + seed}
        for i in range(1, points + 1)
    ]
    print(json.dumps(reply), flush=True)
"""


compare = load_script(BENCHMARKS / "compare.py")
protocol = load_script(BENCHMARKS / "peers" / "protocol.py")
published = load_script(BENCHMARKS / "peers" / "published_networks.py")


def fake_side(factor):
    command = (sys.executable, "-S", "-c", WORKER.replace("FACTOR", str(factor)))
    return compare.Side(command, dict(os.environ))


# ---- order and statistics


def test_each_side_is_first_equally_often_and_both_run_once_per_pair():
    order = compare.execution_order(6)
    assert [first for first, _ in order] == ["A", "B"] * 3
    assert all(set(pair) == {"A", "B"} for pair in order)


@pytest.mark.parametrize("n", [5, 6, 9, 20])
def test_the_interval_of_the_median_has_its_nominal_coverage(n):
    interval = compare.median_interval(list(range(n)))
    k = int(interval["low"]) + 1  # the k-th smallest of 0, 1, 2, ...
    assert interval["high"] == n - k
    assert interval["coverage"] == pytest.approx(1.0 - 2.0 * binom.cdf(k - 1, n, 0.5))
    assert interval["coverage"] >= 0.95 or k == 1
    assert 1.0 - 2.0 * binom.cdf(k, n, 0.5) < 0.95  # a narrower interval would not cover


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equal"), (3.0, "better"), (-3.0, "worse")])
def test_returns_are_compared_by_the_interval_of_their_difference(shift, verdict):
    peer = np.random.default_rng(1).normal(size=8)
    result = compare.compare_returns(list(peer + shift), list(peer))
    assert result["verdict"] == verdict
    assert result["difference"]["mean"] == pytest.approx(shift)
    assert result["difference"]["low"] <= shift <= result["difference"]["high"]


# ---- flags


def arguments(*options):
    return compare.parse(["--peer", "ours", *options])


def test_both_sides_run_under_the_flags_of_the_command_line(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    for workload, expected in (("W1", CPU_FLAGS), ("W2", CPU_FLAGS | SMALL_FLAGS)):
        flags = compare.flags_of(compare.spec_of(workload, 1)["config"], arguments())
        assert flags["ours"] == flags["peer"] == " ".join(f"--{name}={value}" for name, value in expected.items())


def test_fast_flags_and_flags_of_the_environment_reach_both_sides(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    flags = compare.flags_of(compare.spec_of("W1", 1)["config"], arguments("--fast-flags"))
    assert flags["ours"] == flags["peer"]
    assert flags["ours"].startswith("--xla_a=1 ")
    assert all(value in flags["ours"] for value in FAST_FLAGS.values())


def test_flags_can_be_chosen_for_the_peer_only():
    flags = compare.flags_of(compare.spec_of("W1", 1)["config"], arguments("--flags=--xla_b=2", "--peer-flags="))
    assert flags["ours"].startswith("--xla_b=2 ")
    assert flags["peer"] == ""


# ---- workers


def test_a_comparison_of_two_workers_gives_the_ratio_of_their_speeds():
    spec = compare.spec_of("W2", 1)
    result = compare.race(fake_side(1.0), fake_side(4.0), (spec, spec), 5)
    assert result["ratios"] == pytest.approx([4.0] * 5)
    assert result["ratio"]["median"] == pytest.approx(4.0)
    steps = spec["config"]["total_timesteps"]
    assert result["speeds"]["ours"] == pytest.approx([steps / (1.0 + seed) for seed in range(1, 6)])
    line = compare.row({"workload": "W2", **result})
    assert "| W2 | fake |" in line
    assert "**4.00** (4.00 to 4.00" in line


def test_learning_runs_as_many_executions_as_the_seeds_take():
    spec = compare.spec_of("W2", 1)
    learned = compare.learn(fake_side(1.0), spec | {"num_seeds": 1}, 3)
    assert learned["final_returns"] == [0.0, 1.0, 2.0]
    assert learned["env_steps_per_seed"] == spec["config"]["total_timesteps"]


def test_learning_curves_are_shown_side_by_side():
    spec = compare.spec_of("ant", 400) | {"curve": 4}
    curves = {
        "ours": compare.learning_curve(fake_side(0.5), spec),
        "peer": compare.learning_curve(fake_side(2.0), spec, seed=3),
    }
    head, rule, *lines = compare.curve_table({"workload": "ant", "curve": curves}).strip().splitlines()
    assert head.startswith("| ant |")
    assert rule.count("|") == lines[0].count("|") == 6
    assert lines[0] == "| 0.51M | 0.5 | 10.0 | 2.0 | 13.0 |"
    assert lines[3] == "| 2.05M | 2.0 | 40.0 | 8.0 | 43.0 |"


@pytest.mark.parametrize(
    ("peer", "options", "message"),
    [("brax", ("--curve", "7"), "must divide the 400"), ("rejax", ("--curve", "8"), "works with --peer brax")],
)
def test_a_curve_that_a_side_cannot_make_is_an_error_before_anything_runs(peer, options, message):
    args = compare.parse(["--peer", peer, "--workload", "ant", *options])
    with pytest.raises(SystemExit, match=message):
        compare.check_curve(args, compare.PEERS[peer])


def test_the_speed_is_kept_if_the_check_of_learning_fails(tmp_path, capsys):
    failing = WORKER.replace("for line", "assert not spec.get('learning'), 'out of memory'\nfor line")
    worker = tmp_path / "worker.py"
    worker.write_text(failing.replace("FACTOR", "1.0"))
    command, file = f"{sys.executable} -S {worker}", tmp_path / "results.json"
    options = ["--workload", "W2", "--pairs", "5", "--json", str(file)]
    with pytest.raises(RuntimeError, match="out of memory"):
        compare.main(["--ours-command", command, "--peer-command", command, *options])
    (result,) = json.loads(file.read_text())["results"]
    assert result["ratios"] == pytest.approx([1.0] * 5)
    assert "**1.00** (1.00 to 1.00" in capsys.readouterr().out


def test_the_speed_is_in_the_file_before_the_check_of_learning_begins(tmp_path, monkeypatch):
    command, file, seen = shlex.join(fake_side(1.0).command), tmp_path / "results.json", []

    def look(*_):
        seen.extend(json.loads(file.read_text())["results"])
        return {}

    monkeypatch.setattr(compare, "measure_learning", look)
    options = ["--workload", "W2", "--pairs", "5", "--json", str(file)]
    compare.main(["--ours-command", command, "--peer-command", command, *options])
    assert seen[0]["ratios"] == pytest.approx([1.0] * 5)


def test_both_sides_draw_the_curve_of_the_seed_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(compare, "learning_curve", lambda side, spec, seed: (side, spec["curve"], seed))
    args = compare.parse(["--peer", "brax", "--workload", "ant", "--curve", "4", "--curve-seed", "3"])
    curves = compare.measure_learning("ant", args, "ours", "brax", compare.PEERS["brax"])["curve"]
    assert curves == {"ours": ("ours", 4, 3), "peer": ("brax", 4, 3)}


def test_a_failed_worker_is_an_error_with_its_last_output():
    side = compare.Side((sys.executable, "-S", "-c", "import sys; sys.exit('no such peer')"), dict(os.environ))
    with pytest.raises(RuntimeError, match="no such peer"), side.worker(compare.spec_of("W2", 1)):
        pass


BUSY = """
import os, sys, time
print('{"ready": true}', flush=True)
sys.stdin.readline()
print(os.getpid(), flush=True)  # no answer, which would start with a brace
time.sleep(600)
"""

PARENT = """
import os, sys
sys.path.insert(0, {folder!r})
import compare
compare.exit_on_sigterm()
with compare.Side((sys.executable, "-S", "-c", {busy!r}), dict(os.environ)).worker({{"config": {{}}}}) as worker:
    worker.process.stdin.write("run 0\\n")
    worker.process.stdin.flush()
    print(worker.lines.get(), flush=True)
    worker.run(0)
"""


def test_a_terminated_comparison_ends_its_busy_worker():
    program = PARENT.format(folder=str(BENCHMARKS), busy=BUSY)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 128 + signal.SIGTERM
    parent.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("name", compare.TIMED_UPDATES)
def test_a_specification_is_json_that_describes_the_workload(name):
    spec = json.loads(json.dumps(compare.spec_of(name, 10)))
    assert protocol.whole(spec) == 10
    assert protocol.tenth(10) == 1


def test_a_script_gets_the_settings_of_the_workload_and_refuses_other_layers():
    spec = json.loads(json.dumps(compare.spec_of("craftax", 10)))
    settings = protocol.script_config(spec, [512] * 3)
    assert settings["TOTAL_TIMESTEPS"] == 10 * settings["NUM_ENVS"] * settings["NUM_STEPS"]
    assert settings["VF_COEF"] == 2.0 * spec["hyperparams"]["vf_coef"]
    assert settings["CLIP_EPS"] == spec["hyperparams"]["vf_clip_eps"]
    with pytest.raises(AssertionError):
        protocol.script_config(spec)


# ---- every setting reaches the peer, or is known to differ

# What the adapters import beyond what the tests have.
ABSENT = {
    "navix": ("navix", "navix.agents"),
    "rejax": ("rejax", "rejax.evaluate"),
    "sb3": ("torch", "stable_baselines3", "stable_baselines3.common", "stable_baselines3.common.env_util"),
    "sbx": ("torch", "sbx", "stable_baselines3", "stable_baselines3.common", "stable_baselines3.common.env_util"),
}


def read_settings(peer, adapter, spec):
    """Let an adapter read all settings that it gives to its peer."""
    if peer == "navix":
        adapter.navix.make.return_value.observation_space.shape = (7, 7, 3)
        adapter.make(spec)
    if peer in ("sb3", "sbx"):
        return adapter.model_of(peer, spec, 0)
    names = {"purejaxrl": "translated", "jaxmarl": "translated", "craftax": "translated", "rejax": "algorithm"}
    return getattr(adapter, names.get(peer, "settings"))(spec)


@pytest.fixture
def adapter_of(monkeypatch, brax_ppo):
    """Return (peer) -> its adapter and the settings that differ; suites that are not installed are mocked."""

    def load(peer):
        if peer == "brax":
            return brax_ppo, brax_ppo.DIFFERS_ON_W5
        for name in ABSENT.get(peer, ()):
            monkeypatch.setitem(sys.modules, name, mock.MagicMock())
        adapter = load_script(BENCHMARKS / "peers" / compare.PEERS[peer].adapter)
        differs = getattr(adapter, "DIFFERS", ())
        return adapter, differs[peer] if isinstance(differs, dict) else differs

    return load


PAIRS = [(peer, name) for peer, x in compare.PEERS.items() if peer != "ours" for name in x.workloads]


@pytest.mark.parametrize(("peer", "name"), PAIRS)
def test_an_adapter_accounts_for_every_setting_of_its_workloads(adapter_of, peer, name):
    adapter, differs = adapter_of(peer)
    spec = protocol.watched(json.loads(json.dumps(compare.spec_of(name, 2))))
    read_settings(peer, adapter, spec)
    protocol.check_read(spec, differs)


@pytest.mark.parametrize(
    ("table", "name"), [("config", "stagger"), ("network", "log_std_init"), ("hyperparams", "dual_clip")]
)
@pytest.mark.parametrize("peer", ["purejaxrl", "rejax", "sb3"])
def test_an_adapter_refuses_what_its_peer_cannot_have(adapter_of, peer, table, name):
    adapter, _ = adapter_of(peer)
    spec = json.loads(json.dumps(compare.spec_of("W2", 2)))
    spec[table][name] = 3
    with pytest.raises(AssertionError, match=rf"cannot have {table}\.{name} = 3"):
        read_settings(peer, adapter, protocol.watched(spec))


def test_a_setting_that_no_adapter_read_is_named():
    spec = protocol.watched(json.loads(json.dumps(compare.spec_of("W2", 2))))
    for key in spec["settings"]:
        table, _, name = key.partition(".")
        if name not in ("gamma", "kernel_init"):
            spec[table][name]
    protocol.check_read(spec, ["network.kernel_init", "hyperparams.gamma"])
    with pytest.raises(AssertionError, match=r"ignores hyperparams\.gamma:"):
        protocol.check_read(spec, ["network.kernel_init"])


def test_settings_without_effect_need_no_adapter():
    assert "hyperparams.trpo_delta" not in compare.spec_of("W2", 2)["settings"]
    assert "network.log_std_init" in compare.spec_of("W5", 2)["settings"]
    assert not any(key.startswith("network.") for key in compare.spec_of("pgx", 2)["settings"])
    assert "env_params.backend" in compare.spec_of("ant-spring", 2)["settings"]


def test_every_peer_has_its_adapter():
    assert all((BENCHMARKS / "peers" / peer.adapter).exists() for peer in compare.PEERS.values())


def test_settings_of_the_environment_reach_the_specification():
    assert compare.spec_of("pgx", 1)["env_params"] == {"time_limit": 0}
    assert compare.spec_of("mpe", 1)["env_params"] == dict(compare.workload_of("mpe")[0].env_params)


def test_a_script_is_imported_with_other_modules_in_place_of_some(tmp_path, monkeypatch):
    (tmp_path / "neighbor_of_script.py").write_text("number = 3")
    (tmp_path / "script_of_peer.py").write_text("import no_such_logger, neighbor_of_script as n\nnumber = n.number")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    assert protocol.load_script(tmp_path / "script_of_peer.py", {"no_such_logger": object()}).number == 3


# ---- published networks


def dense(*sizes):
    """Count the parameters of dense layers with biases."""
    return sum((m + 1) * n for m, n in itertools.pairwise(sizes))


def published_network(name, space, num_actions):
    spec = compare.spec_of(name, 1)
    env = Env(lambda key: None, lambda key, state, action: None, space, Discrete(num_actions))
    env, network = published.NETWORKS[spec["published"]](env, spec)
    with jax.numpy_dtype_promotion("standard"):  # flax's pooling relies on it
        params = jax.eval_shape(network.init, jax.random.key(0))
    return env, network, sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["pgx", "pgx-patches"])
def test_the_network_of_minatar_has_the_layers_of_pgx(name):
    _, _, size = published_network(name, box(0, 1, (10, 10, 4), bool), 3)
    torso = dense(2 * 2 * 4, 32) + dense(10 * 5 * 16, 64)
    assert size == torso + dense(64, 64, 64, 3) + dense(64, 64, 64, 1)


@pytest.mark.parametrize("name", ["xland", "xland-patches"])
def test_the_network_of_xland_has_the_layers_of_the_suite(name):
    space = box(0, (14, 13), (7, 7, 2), np.uint8, codes=True)
    env, network, size = published_network(name, space, 6)
    assert set(env.observation_space) == {"view", "direction", "previous_action", "previous_reward"}
    tables = 15 * 16 + 14 * 16 + 6 * 16
    convolutions = dense(4 * 32, 16) + dense(4 * 16, 32) + dense(4 * 32, 64)
    gru = dense(4 * 4 * 64 + 2 * 16 + 1, 3 * 16) + 16 * 3 * 16 + 16
    assert size == tables + convolutions + dense(4, 16) + gru + dense(16, 16, 6) + dense(16, 16, 1)
    assert network.initial_rnn_state(3).shape == (3, 16)


def test_both_convolutions_compute_the_same(key):
    key_image, key_kernel = jax.random.split(key)
    x = jax.random.normal(key_image, (2, 5, 5, 4))

    class One(nn.Module):
        patches: bool

        @nn.compact
        def __call__(self, x):
            return published.convolution(x, 3, nn.initializers.zeros, self.patches)

    layer = {"kernel": jax.random.normal(key_kernel, (2, 2, 4, 3)), "bias": jnp.arange(3.0)}
    expected = One(False).apply({"params": {"Conv_0": layer}}, x)
    assert expected.shape == (2, 4, 4, 3)
    result = One(True).apply({"params": {"PatchConvolution_0": layer}}, x)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_layers_start_as_those_of_haiku():
    kernel = published.HAIKU["kernel_init"](jax.random.key(0), (100, 1000), jnp.float32)
    assert float(jnp.abs(kernel).max()) == pytest.approx(0.2, rel=1e-3)  # two standard deviations of 1 / sqrt(100)


def test_every_workload_of_a_peer_has_its_numbers_of_updates():
    assert compare.TIMED_UPDATES.keys() == compare.LEARNING_UPDATES.keys()
    assert compare.SUITES.keys() <= compare.TIMED_UPDATES.keys()
    assert all(set(peer.workloads) <= compare.TIMED_UPDATES.keys() for peer in compare.PEERS.values())


# ---- brax


@pytest.fixture
def brax_ppo(monkeypatch):
    """Its adapter. The suites that it imports are replaced, because it has a virtual environment of its own."""
    contents = {
        "brax": {},
        "brax.envs": {"get_environment": lambda name, **arguments: (name, arguments)},
        "brax.envs.base": {"Env": object, "State": tuple},
        "brax.training": {},
        "brax.training.agents": {},
        "brax.training.agents.ppo": {"networks": SimpleNamespace(make_ppo_networks=dict), "train": None},
        "gymnax": {"make": lambda name: (name, SimpleNamespace(max_steps_in_episode=200))},
        "mujoco_playground": {
            "registry": SimpleNamespace(
                get_default_config=lambda name: SimpleNamespace(episode_length=1000),
                load=lambda name, config_overrides: (name, config_overrides),
            ),
            "wrapper": SimpleNamespace(wrap_for_brax_training="wrap"),
        },
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "protocol", protocol)
    return load_script(BENCHMARKS / "peers" / "brax_ppo.py")


@pytest.mark.parametrize("name", compare.PEERS["brax"].workloads)
def test_an_update_of_brax_has_the_steps_and_minibatches_of_ours(brax_ppo, name):
    spec = compare.spec_of(name, 10)
    options = brax_ppo.settings(spec)
    sequences = options["batch_size"] * options["num_minibatches"]
    assert sequences == options["num_envs"]  # otherwise an update would gather several rollouts
    assert 10 * sequences * options["unroll_length"] == spec["config"]["total_timesteps"]


def test_brax_gets_the_environment_and_the_networks_of_the_workload(brax_ppo):
    options = brax_ppo.settings(compare.spec_of("brax", 1))
    assert options["environment"] == ("inverted_pendulum", {})
    assert options["episode_length"] == 1000
    assert options["clipping_epsilon_value"] is None
    network = options["network_factory"]()
    assert network["distribution_type"] == "normal"
    assert network["policy_hidden_layer_sizes"] == network["value_hidden_layer_sizes"] == (64, 64)
    assert network["init_noise_std"] == 1.0


@pytest.mark.parametrize("name", ["ant", "halfcheetah", "ant-spring", "cheetah-run"])
def test_the_tanh_policies_of_ours_and_of_brax_start_with_the_same_standard_deviation(brax_ppo, name):
    network = compare.spec_of(name, 1)["network"]
    assert math.exp(network["log_std_init"]) == pytest.approx(np.log1p(np.exp(0.0)) + 0.001, rel=1e-3)
    assert "init_noise_std" not in brax_ppo.network_options(network)
    with pytest.raises(AssertionError, match="starts with a standard deviation"):
        brax_ppo.network_options(network | {"log_std_init": 0.0})


@pytest.mark.parametrize("name", [name for name in compare.PEERS["brax"].workloads if name != "W5"])
def test_the_networks_of_ours_and_of_brax_have_one_initializer(brax_ppo, name):
    network = compare.spec_of(name, 1)["network"]
    assert network["kernel_init"] == "lecun_uniform"
    options = brax_ppo.network_options(network)
    makers = {options[f"{part}_network_kernel_init_fn"] for part in ("policy", "value")}
    assert makers == {nn.initializers.lecun_uniform}


def test_the_time_limit_and_the_backend_of_the_workload_reach_brax(brax_ppo):
    spec = compare.spec_of("brax", 1) | {"env_params": {"time_limit": 50, "backend": "spring"}}
    options = brax_ppo.settings(spec)
    assert options["environment"] == ("inverted_pendulum", {"backend": "spring"})
    assert options["episode_length"] == 50


def test_the_spring_workloads_have_the_fast_simulator_on_both_sides(brax_ppo):
    for name in ("ant", "halfcheetah"):
        exact, fast = compare.spec_of(name, 1), compare.spec_of(f"{name}-spring", 1)
        assert brax_ppo.settings(fast)["environment"] == (name, {"backend": "spring"})
        assert fast["env_params"] == {"backend": "spring"}
        assert set(fast["settings"]) - set(exact["settings"]) == {"env_params.backend"}
        same = ("workload", "env_params", "settings")
        assert fast | {key: exact[key] for key in same} == exact


def test_an_environment_of_playground_reaches_brax_with_its_wrapper(brax_ppo):
    options = brax_ppo.settings(compare.spec_of("cheetah-run", 1))
    assert options["environment"] == ("CheetahRun", {"impl": "jax"})
    assert (options["episode_length"], options["wrap_env_fn"]) == (1000, "wrap")


def test_the_curve_of_brax_leaves_out_the_untrained_policy(brax_ppo, monkeypatch):
    def train(num_timesteps, num_evals, progress_fn, **options):
        for i in range(num_evals):
            steps = i * num_timesteps // (num_evals - 1)
            walltime = {"training/walltime": 60.0 * i} if i else {}
            progress_fn(steps, {"eval/episode_reward": float(i)} | walltime)

    monkeypatch.setattr(brax_ppo, "train", SimpleNamespace(train=train))
    run, _ = brax_ppo.build(compare.spec_of("ant", 4) | {"curve": 2})
    points = [{"env_steps": 10240 * i, "minutes": float(i), "return": float(i)} for i in (1, 2)]
    assert run(0) == {"curve": points}


@pytest.mark.parametrize("name", ["brax", "ant", "halfcheetah", "ant-spring", "cheetah-run"])
def test_ours_has_what_the_ppo_of_brax_cannot_change(name):
    spec = compare.spec_of(name, 1)
    assert spec["config"]["truncation"] == "mask"
    assert not spec["config"]["scale_rewards"]
    assert spec["hyperparams"]["lr_anneal"] == 0.0
    assert spec["hyperparams"]["adam_eps"] == 1e-8


@pytest.mark.parametrize(("peer", "continues"), [("brax", True), ("rejax", False)])
def test_ours_is_asked_to_continue_one_run_beside_brax(monkeypatch, peer, continues):
    monkeypatch.setattr(compare, "race", lambda ours, peer, specs, pairs: specs[0]["continued"])
    args = compare.parse(["--peer", peer, "--workload", "W5"])
    assert compare.measure_speed("W5", args, None, None, compare.PEERS[peer]) is continues


def test_an_execution_continues_one_run_if_it_is_asked_to(monkeypatch):
    monkeypatch.setitem(sys.modules, "protocol", protocol)
    ours = load_script(BENCHMARKS / "peers" / "ours.py")
    updates = []
    iterate = ours.pp.iterate

    def watched(*args, **options):
        for state, metrics in iterate(*args, **options):
            updates.append(int(state.num_updates))
            yield state, metrics

    monkeypatch.setattr(ours.pp, "iterate", watched)
    monkeypatch.setattr(ours.pp, "prepare_cpu", lambda *sizes: None)  # the devices of the tests are set already
    run, _ = ours.build(compare.spec_of("W2", 3) | {"continued": True})
    assert run(7)["env_steps"] == compare.spec_of("W2", 3)["config"]["total_timesteps"]
    assert updates == [3, 6, 9]


@pytest.mark.parametrize("length", [3, 7])
def test_a_worker_counts_the_kernels_of_a_step(length):
    x = jnp.ones((8, 8))
    scan = jax.jit(lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=length)[0])
    assert protocol.kernels_per_env_step(scan.lower(x).compile(), length) >= 2  # a product and a sine
    assert protocol.kernels_per_env_step(scan.lower(x).compile(), length + 1) is None
