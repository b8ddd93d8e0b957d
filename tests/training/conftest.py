"""Fixtures for tests of training."""

from moving_keys import keys_move as keys_move
