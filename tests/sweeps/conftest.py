"""Fixtures for tests of sweeps."""

from moving_keys import keys_move as keys_move
