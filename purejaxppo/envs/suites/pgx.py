"""Adapter for pgx: the MinAtar games, 2048, and games of several players against built-in or given opponents.

* terminated: `state.terminated`.
* truncated: after `time_limit` steps, a clock of this adapter: pgx has none, and MinAtar games can go on forever.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, SuiteObject
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import arguments_of, choose_arguments, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import NEVER, Env, TimeStep
from purejaxppo.envs.rendering import Renderer, image_renderer
from purejaxppo.envs.spaces import Discrete, Space, box
from purejaxppo.envs.wrappers.episodes import time_limit

MINATAR_STEPS = 10_000  # far longer than a useful episode
SIZES = {"go_9x9": {"size": 9}, "go_19x19": {"size": 19}}  # arguments implied by the id
OPPONENTS = ("random", "one_step")

# (key, observation) -> action; the observation is of the same space as the learner's
Opponent = Callable[[PRNGKey, Observation], jax.Array]


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("pgx")


def make(name: str, **env_params: Any) -> Env:
    """Make a game of pgx.

    A game of several players is played from a random seat. The other seats belong to the opponent: their moves are
    part of the step. The reward is that of the learner's seat. Observations of all games but MinAtar carry the mask of
    the legal actions.

    Args:
        name: id of the game.
        env_params: arguments of the game's class (`sticky_action_prob` and `use_minimal_action_set` of MinAtar);
            `time_limit`, steps until an episode is truncated, 0: never (MinAtar: 10 000, others: 0); `opponent` of a
            game of several players: "random" plays any legal action, "one_step" wins if one move wins and otherwise
            plays at random, or a function (key, observation) -> action, such as a frozen policy.

    Raises:
        MissingSuite: pgx is not installed, or its version does not work.
        ValueError: an unknown parameter (the nearest are named), or one of a wrong kind.
    """
    pgx = import_suite("pgx")
    with suite_code(), jax.ensure_compile_time_eval():
        game = pgx.make(name)
        fixed = SIZES.get(name, {})
        arguments = {k: v for k, v in arguments_of(type(game)).items() if k not in fixed}
        ours = {"time_limit": default_time_limit(name) or 0} | ({"opponent": None} if game.num_players > 1 else {})
        chosen = choose_arguments(name, {**arguments, **ours}, env_params)
        steps, opponent = chosen.pop("time_limit", ours["time_limit"]), chosen.pop("opponent", "random")
        if chosen:
            game = type(game)(**fixed, **chosen)
        env = _one_player(game) if game.num_players == 1 else _against(game, _opponent(name, game, opponent))
    env = conform(env)
    return time_limit(env, steps) if steps else env


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how states are drawn: MinAtar as grids, boards as an animated SVG of the suite."""
    pgx = import_suite("pgx")

    def save(states: Sequence[SuiteObject], path: Path) -> None:
        with suite_code():
            pgx.save_svg_animation([jax.tree.map(jnp.asarray, state) for state in states], path)

    if not name.startswith("minatar-"):
        return Renderer(pgx.State, save, ".svg")
    from purejaxppo.envs.drawings import grid

    return image_renderer(pgx.State, lambda state: grid(state.observation), 100)


def default_time_limit(name: str) -> int | None:
    """Return the steps after which an episode is truncated by default; None: never."""
    return MINATAR_STEPS if name.startswith("minatar-") else None


def _one_player(game: SuiteObject) -> Env:
    """Return a game of one player."""
    view, space = _view(game), _space(game)

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        state = game.init(raw_key(key))
        return state, view(state)

    @quiet
    def step(key: PRNGKey, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        state = game.step(state, action, raw_key(key))
        obs = view(state)
        return state, TimeStep(obs, state.rewards[0], state.terminated, state.truncated, obs)

    return Env(reset, step, space, Discrete(game.num_actions), truncation_gap=NEVER)  # games have no clock


class MatchState(NamedTuple):
    """State of a game against opponents."""

    game: SuiteObject  # pgx's state; the learner is to move unless the game is over
    seat: jax.Array  # []  int32, the learner's player id
    reward: jax.Array  # []  float32, what the opponents' moves before the learner's first move gave


def _against(game: SuiteObject, opponent: Callable[[PRNGKey, EnvState], jax.Array]) -> Env:
    """Return a game of several players in which `opponent` plays every seat but the learner's."""
    view, space = _view(game), _space(game)

    def play_on(key: PRNGKey, state: EnvState, seat: jax.Array) -> tuple[EnvState, jax.Array]:
        """Let the opponents move until it is the learner's move or the game is over; add up the learner's rewards."""

        def waits(carry: tuple) -> jax.Array:
            state = carry[1]
            return (state.current_player != seat) & ~(state.terminated | state.truncated)

        def move(carry: tuple) -> tuple:
            key, state, reward = carry
            key, key_action, key_step = jax.random.split(key, 3)
            state = game.step(state, opponent(key_action, state), raw_key(key_step))
            return key, state, reward + state.rewards[seat]

        return jax.lax.while_loop(waits, move, (key, state, jnp.float32(0.0)))[1:]

    @quiet
    def reset(key: PRNGKey) -> tuple[MatchState, Observation]:
        key_game, key_seat, key_moves = jax.random.split(key, 3)
        seat = jax.random.randint(key_seat, (), 0, game.num_players, jnp.int32)
        state, reward = play_on(key_moves, game.init(raw_key(key_game)), seat)
        return MatchState(state, seat, reward), view(state)

    @quiet
    def step(key: PRNGKey, match: MatchState, action: jax.Array) -> tuple[MatchState, TimeStep]:
        key_step, key_moves = jax.random.split(key)
        state = game.step(match.game, action, raw_key(key_step))
        first = match.reward + state.rewards[match.seat]
        state, later = play_on(key_moves, state, match.seat)
        obs = view(state)
        timestep = TimeStep(obs, first + later, state.terminated, state.truncated, obs)
        return MatchState(state, match.seat, jnp.float32(0.0)), timestep

    return Env(reset, step, space, Discrete(game.num_actions), truncation_gap=NEVER)  # games have no clock


def _opponent(name: str, game: SuiteObject, opponent: str | Opponent) -> Callable[[PRNGKey, EnvState], jax.Array]:
    """Return an opponent as a function (key, pgx's state) -> action."""
    if callable(opponent):
        view = _view(game)
        return lambda key, state: opponent(key, view(state))
    if opponent not in OPPONENTS:
        raise ValueError(f'{name}: opponent must be "random", "one_step" or a function, not {opponent!r}')
    return _random_move if opponent == "random" else partial(_winning_move, game)


def _random_move(key: PRNGKey, state: EnvState) -> jax.Array:
    """Draw one of the legal actions."""
    return jax.random.categorical(key, jnp.where(state.legal_action_mask, 0.0, -1e9))


def _winning_move(game: SuiteObject, key: PRNGKey, state: EnvState) -> jax.Array:
    """Draw one of the legal actions with the largest reward of this move: a search of one step."""
    key_step, key_choice = jax.random.split(key)
    actions = jnp.arange(state.legal_action_mask.shape[0])
    key_data = raw_key(key_step)
    rewards = jax.vmap(lambda action: game.step(state, action, key_data).rewards[state.current_player])(actions)
    rewards = jnp.where(state.legal_action_mask, rewards, -jnp.inf)
    return jax.random.categorical(key_choice, jnp.where(rewards == rewards.max(), 0.0, -1e9))


def _is_masked(game: SuiteObject) -> bool:
    return not game.id.startswith("minatar-")  # in which every action is legal


def _view(game: SuiteObject) -> Callable[[EnvState], Observation]:
    """Return the function pgx's state -> observation."""
    if not _is_masked(game):
        return lambda state: state.observation
    return lambda state: {"observation": state.observation, "action_mask": state.legal_action_mask}


def _space(game: SuiteObject) -> Space:
    """Return the observation space."""
    seen = jax.eval_shape(game.init, jax.random.key(0)).observation
    flags = seen.dtype == np.bool_
    space = box(0, 1, seen.shape, bool) if flags else box(-np.inf, np.inf, seen.shape, seen.dtype)
    return {"observation": space, "action_mask": box(0, 1, (game.num_actions,), bool)} if _is_masked(game) else space
