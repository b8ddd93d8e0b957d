"""pgx: transitions equal the suite's, opponents move within the step, and the clock truncates."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_clock, assert_same, colors, draw, first_keys, needs, play, run_suite

import purejaxppo as pp
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.registry import make

pgx = needs("pgx")


def test_the_recorded_ids_are_those_of_the_suite() -> None:
    assert set(recorded_ids("pgx")) == set(pgx.available_envs())


def test_minatar_steps_as_the_suite_does() -> None:
    played = play(make("pgx/minatar-breakout", sticky_action_prob=0.0), 5, 3)
    assert not played.ts.terminated.any()
    game = pgx.minatar.breakout.MinAtarBreakout(sticky_action_prob=0.0)

    def replay(keys, actions):  # without sticky actions the game uses no key
        def step(s, a):
            s = jax.vmap(game.step, (0, 0, None))(s, a, jax.random.PRNGKey(0))
            return s, (s.observation, s.rewards[:, 0], s.terminated)

        return jax.lax.scan(step, jax.vmap(game.init)(keys), actions)[1]

    replayed = run_suite(replay, first_keys(3), played.action)
    assert_same(replayed, (played.ts.obs, played.ts.reward, played.ts.terminated))


def test_minatar_is_truncated_only_by_the_clock_of_the_adapter() -> None:
    assert_clock(lambda limit: make("pgx/minatar-breakout", time_limit=limit), 60, 16)


def test_a_time_limit_of_zero_means_no_clock() -> None:
    check_env(make("pgx/minatar-freeway", time_limit=0))


@pytest.mark.parametrize("opponent", ["random", "one_step"])
def test_tic_tac_toe_against_an_opponent(opponent: str) -> None:
    played = play(make("pgx/tic_tac_toe", opponent=opponent), 40, 64)
    board, mask = played.seen["observation"], played.seen["action_mask"]
    free = ~board.any(-1).reshape(*mask.shape)
    np.testing.assert_array_equal(mask, free)  # it is always the learner's move, and the board shows its view
    mine, theirs = board[..., 0].sum((2, 3)), board[..., 1].sum((2, 3))
    assert set(np.unique(theirs - mine)) == {0, 1}  # both seats are played
    ts = played.ts
    assert set(np.unique(ts.reward[ts.terminated])) == {-1.0, 0.0, 1.0}
    assert not ts.reward[~ts.terminated].any()
    assert not ts.truncated.any()
    mean = ts.reward[ts.terminated].mean()
    assert abs(mean) < 0.2 if opponent == "random" else mean < -0.25  # random play against itself, or a better player


def test_a_one_step_search_takes_every_win() -> None:
    """Before each of our moves on which the opponent has two in a row, it had no win in one move."""
    played = play(make("pgx/tic_tac_toe", opponent="one_step"), 40, 64)
    lines = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])
    board = played.seen["observation"].reshape(40, 64, 9, 2)
    mine = board[..., 0].copy()
    np.put_along_axis(mine, played.action[..., None], True, -1)  # after the learner's move
    theirs = board[..., 1]
    empty = ~(mine | theirs)
    chance = ((theirs[..., lines].sum(-1) == 2) & (empty[..., lines].sum(-1) == 1)).any(-1)
    won = mine[..., lines].all(-1).any(-1)
    assert chance.any()
    assert (played.ts.reward[chance & ~won] == -1).all()


def test_a_frozen_policy_is_an_opponent() -> None:
    """Both players take the first legal field, so the game is always the same."""

    def first_legal(key, obs):
        return jnp.argmax(obs["action_mask"])

    env = make("pgx/tic_tac_toe", opponent=first_legal)
    played = play(env, 8, 8, policy=lambda t, obs, key: first_legal(key, obs))
    ends = played.ts.reward[played.ts.terminated]
    assert set(ends) == {-1.0, 1.0}  # the first player wins: 0, 2, 4, 6 contains the diagonal 2, 4, 6


@pytest.mark.costly
@pytest.mark.parametrize("name", ["kuhn_poker", "2048"])
def test_games_that_end_early_or_have_one_player(name: str) -> None:
    env = make(f"pgx/{name}")
    check_env(env)
    ts = play(env, 24, 16).ts
    assert not ts.truncated.any()
    assert np.isfinite(ts.reward).all()


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"sticky_prob": 0.1}, "sticky_action_prob"),
        ({"opponent": "random"}, "time_limit"),
        ({"time_limit": 1.5}, "whole number"),
    ],
)
def test_wrong_parameters_are_named(params: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make("pgx/minatar-breakout", **params)


def test_a_wrong_opponent_is_named() -> None:
    with pytest.raises(ValueError, match="'perfect'"):
        make("pgx/tic_tac_toe", opponent="perfect")


def test_a_board_is_drawn_as_an_animated_svg_and_minatar_as_a_gif(tmp_path: Path) -> None:
    text = draw("pgx/tic_tac_toe", tmp_path).read_text()
    assert text.count('class="frame"') == 2
    assert colors(draw("pgx/minatar-breakout", tmp_path)) > 2


@pytest.fixture
def league(monkeypatch):
    """The recipe of self-play."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "docs" / "recipes")
    return importlib.import_module("league")


def rates(
    league, name: str, num_updates: int, h: pp.Hyperparams, num_epochs: int, size: int
) -> dict[str, tuple[float, float]]:
    """Train a league and return the shares of 1000 games that its greedy policy wins and loses, by opponent."""
    config = pp.Config(
        num_envs=256, num_steps=32, total_timesteps=num_updates * 8192, resets="state_pool", num_epochs=num_epochs
    )
    games = {opponent: make(f"pgx/{name}", opponent=opponent) for opponent in ("random", "one_step")}
    network = pp.mlp(games["random"], (128, 128))
    make_env = league.against(lambda opponent: make(f"pgx/{name}", opponent=opponent), network)
    algo = pp.make_ppo(pp.parametrized(make_env, network.init(jax.random.key(0))), network, config)
    state = pp.init_state(algo, 0, h)
    state = league.play_league(algo, state, h, num_updates, [jax.device_get(state.params)], size=size)
    found = {}
    for opponent, env in games.items():
        judge = pp.make_ppo(env, network, config)
        returns = np.asarray(pp.evaluate(judge, state._replace(env_params=()), 1, 1000).returns)
        found[opponent] = float((returns > 0).mean()), float((returns < 0).mean())
    print(name, found)
    return found


@pytest.mark.slow
def test_self_play_of_connect_four_beats_the_random_and_the_one_step_player(league) -> None:
    """Of 1000 games from a random seat; docs/suites.md has a longer run."""
    h = pp.Hyperparams(learning_rate=1e-3, ent_coef=0.01)
    found = rates(league, "connect_four", 300, h, num_epochs=3, size=30)
    assert found["random"][0] > 0.85, found
    assert found["one_step"][0] > 0.7, found


@pytest.mark.slow
def test_self_play_of_tic_tac_toe_loses_no_game(league) -> None:
    """Of 1000 games from a random seat against each player. With an entropy weight of 0.02 a league still loses."""
    h = pp.Hyperparams(learning_rate=2e-3, gamma=1.0, ent_coef=0.15)
    found = rates(league, "tic_tac_toe", 300, h, num_epochs=4, size=12)
    assert found["random"][1] == 0.0, found
    assert found["one_step"][1] == 0.0, found
    assert found["random"][0] > 0.88, found
