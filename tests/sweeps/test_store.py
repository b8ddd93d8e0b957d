"""What a results folder holds is read back as it was written; what is damaged counts as missing or is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_sweeps import BASE, GIVEN

import purejaxppo as pp
from purejaxppo.config.errors import UsageError
from purejaxppo.sweeps import store
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.store import Chosen, Piece

NAN = np.nan
PIECE = Piece(
    trials=((3, 0), (3, 1)),
    columns={"return": np.array([[1.0, NAN, 3.0], [4.0, 5.0, 6.0]]), "hyperparams/gamma": np.full((2, 3), 0.1)},
    failed=np.array([0, 7]),
    states={"0000": np.arange(4, dtype=np.float32).reshape(2, 2), "0001": np.array([True, False])},
    score=np.array([0.1, NAN]),
    seconds=0.1,
)
SWEEP = parse_sweep(GIVEN, BASE)[0]


@pytest.fixture
def folder(tmp_path):
    store.create_folder(tmp_path / "sweep", SWEEP, {"command": "the command"})
    return tmp_path / "sweep"


def assert_same_pieces(a, b):
    assert (a.trials, a.seconds) == (b.trials, b.seconds)
    assert (a.columns.keys(), a.states.keys()) == (b.columns.keys(), b.states.keys())
    jax.tree.map(np.testing.assert_array_equal, a[1:5], b[1:5])


def test_a_piece_is_read_back_as_it_was_written(folder):
    store.write_piece(folder, "stage0-00-0000", PIECE)
    assert_same_pieces(store.read_piece(folder, "stage0-00-0000"), PIECE)
    assert store.read_piece(folder, "stage0-00-0001") is None


def test_a_piece_with_damage_anywhere_is_missing(folder):
    store.write_piece(folder, "stage0-00-0000", PIECE)
    (file,) = (folder / store.PIECES).iterdir()
    content = file.read_bytes()
    for place in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        for other in (bytes(damaged), content[:place]):
            file.write_bytes(other)
            assert store.read_piece(folder, "stage0-00-0000") is None


def test_a_write_that_fails_leaves_the_piece_before(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    store.write_piece(folder, "stage0-00-0000", PIECE)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{name}", full)
            with pytest.raises(OSError, match="No space left"):
                store.write_piece(folder, "stage0-00-0000", PIECE._replace(seconds=9.0))
        assert_same_pieces(store.read_piece(folder, "stage0-00-0000"), PIECE)


def test_states_are_dropped_and_results_stay(folder):
    store.write_piece(folder, "stage0-00-0000", PIECE)
    store.drop_states(folder, "stage0-00-0000")
    assert_same_pieces(store.read_piece(folder, "stage0-00-0000"), PIECE._replace(states={}))
    store.drop_states(folder, "stage0-00-0001")  # there is none


def test_a_running_piece_is_not_among_the_finished_ones(folder):
    names = ["stage0-00-0001", "batch0002-00-0000", "test-01-0000", "stage0-00-0000"]
    for name in (*names, store.running_name(names[0])):
        store.write_piece(folder, name, PIECE)
    assert store.piece_names(folder) == sorted(names)
    store.remove_running(folder, names[0])
    assert store.read_piece(folder, store.running_name(names[0])) is None
    assert store.read_piece(folder, names[0]) is not None
    store.remove_running(folder, names[1])  # there is none


def test_states_are_restored_with_their_keys_and_dtypes():
    keys = jax.random.split(jax.random.key(5), 3)
    states = {"key": keys, "flag": jnp.array([True, False, True]), "x": (jnp.arange(6.0).reshape(3, 2), jnp.arange(3))}
    restored = store.states_of(store.state_arrays(states), jax.eval_shape(lambda: states))
    assert jax.tree.map(lambda x: (x.dtype, x.shape), restored) == jax.tree.map(lambda x: (x.dtype, x.shape), states)
    np.testing.assert_array_equal(jax.random.key_data(restored.pop("key")), jax.random.key_data(states.pop("key")))
    jax.tree.map(np.testing.assert_array_equal, restored, states)


def test_rows_are_taken_in_the_order_given():
    arrays = {"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}
    rows = store.take_rows(arrays, [2, 0, 2])
    np.testing.assert_array_equal(rows["a"], [[4, 5], [0, 1], [4, 5]])
    np.testing.assert_array_equal(rows["b"], [2, 0, 2])


def test_the_sweep_is_read_back_with_what_is_known_beside_it(folder):
    sweep, about = store.read_plan(folder)
    assert sweep == SWEEP
    assert about == {"command": "the command"}
    store.write_about(folder, SWEEP, about | {"finished": True})
    assert store.read_sweep(folder) == (SWEEP, {"command": "the command", "finished": True})


def test_chosen_values_are_read_back_by_setting(folder):
    assert store.read_chosen(folder) == {}
    chosen = {0: Chosen({"hyperparams.gamma": 0.1}, 12), 10: Chosen({"hyperparams.gamma": 0.99}, 3)}
    store.write_chosen(folder, chosen)
    assert store.read_chosen(folder) == chosen


def test_a_folder_that_holds_something_is_refused(folder, tmp_path):
    other = parse_sweep(GIVEN | {"seeds": 3}, BASE)[0]
    (tmp_path / "thesis.tex").write_text("x")
    for place, sweep, text in (
        (folder, SWEEP, "--resume"),
        (folder, other, "another sweep"),
        (tmp_path, SWEEP, "is not an empty folder"),
        (tmp_path / "thesis.tex", SWEEP, "is not an empty folder"),
    ):
        with pytest.raises(pp.ConfigError, match=text):
            store.create_folder(place, sweep, {})
    assert store.read_plan(folder)[0] == SWEEP


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", '{"sweep": {}, "about": {}}'])
def test_a_damaged_sweep_is_named(folder, text):
    (folder / store.SWEEP_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"sweep\.json: cannot be read"):
        store.read_plan(folder)


@pytest.mark.parametrize("text", ["", "[", '{"0": {}}', '{"first": {"values": {}, "trial": 0}}', '{"0": {"value": 1}}'])
def test_a_damaged_choice_is_named(folder, text):
    (folder / store.CHOSEN_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"chosen\.json: cannot be read"):
        store.read_chosen(folder)


def test_a_folder_without_a_sweep_is_named(tmp_path):
    with pytest.raises(UsageError, match="not a results folder of a sweep"):
        store.read_plan(tmp_path)
