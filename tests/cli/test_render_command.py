"""`purejaxppo render` draws one episode of a policy into its run folder."""

import jax
import pytest
from command_line import TINY, problems_of
from PIL import Image

from purejaxppo.cli import resume_command, train_command
from purejaxppo.cli.main import main
from purejaxppo.config.toml import dump_toml, parse_toml
from purejaxppo.training.loop import init_state
from purejaxppo.training.policy_file import save_policy
from purejaxppo.training.runs import build


@pytest.fixture(scope="module")
def untrained():
    """The first state of a run on CartPole."""
    run, _ = parse_toml(TINY)
    return init_state(build(run), jax.random.key(0), run.hyperparams)


@pytest.fixture
def keep(untrained):
    """Return a function that writes a run folder with an untrained policy."""

    def keep(folder, text=TINY):
        folder.mkdir(exist_ok=True)
        save_policy(folder / "policy.safetensors", untrained, {"config": dump_toml(parse_toml(text)[0])})
        return folder

    return keep


def milliseconds(path) -> int:
    """Return the length of an animation; equal frames that follow each other are stored as one."""
    total = 0
    with Image.open(path) as image:
        for i in range(image.n_frames):
            image.seek(i)
            total += image.info["duration"]
    return total


@pytest.mark.parametrize("limit", ["50", "3"])
def test_the_gif_has_a_frame_for_each_state_of_the_episode(keep, limit, tmp_path, capsys):
    """The first state, and the one after each of the steps that the command counts."""
    folder = keep(tmp_path / "run")
    assert main(["render", str(folder), "--max-steps", limit]) == 0
    path = folder / "episode.gif"
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: an episode of ")
    steps = int(out.partition("episode of ")[2].split()[0])
    assert out.endswith(f"return {steps}\n")  # CartPole pays 1 for each step
    assert steps == 3 if limit == "3" else 5 < steps < 50
    assert milliseconds(path) == 50 * (steps + 1)


def test_an_environment_without_a_renderer_is_one_sentence(keep, tmp_path, capsys):
    folder = keep(tmp_path / "run", TINY.replace("CartPole-v1", "examples/King-v1"))
    assert main(["render", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("purejaxppo: error: examples/King-v1 has no renderer")
    assert err.count("\n") == 1
    assert not list(folder.glob("episode.*"))


def test_problems_of_the_command_line(tmp_path):
    assert problems_of("render") == {("RUN", "missing")}
    missing = tmp_path / "none"
    found = problems_of("render", missing, "--max-steps", "0")
    assert found == {("--max-steps", "range"), (str(missing / "policy.safetensors"), "file")}


def test_train_renders_at_the_end(keep, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(train_command, "run_session", lambda run, algo, out, *_: keep(out) and 0)
    assert main(["train", str(tiny), "--out", str(folder), "--render"]) == 0
    assert (folder / "episode.gif").is_file()


@pytest.mark.usefixtures("nothing_runs")
def test_train_refuses_to_render_before_it_begins(tmp_path, capsys):
    assert main(["train", "examples/King-v1", "--out", str(tmp_path / "run"), "--render"]) == 2
    assert "no renderer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_resume_refuses_to_render_before_it_begins(tmp_path, capsys, monkeypatch):
    """A run that was killed before its first checkpoint."""
    monkeypatch.setattr(resume_command, "build", None)
    (tmp_path / "config.toml").write_text(TINY.replace("CartPole-v1", "examples/King-v1"))
    assert main(["train", "--resume", str(tmp_path), "--render"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("purejaxppo: error: examples/King-v1 has no renderer")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
