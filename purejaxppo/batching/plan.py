"""The execution plan of an update: devices, microbatches and memory layout behind four operations.

The algorithm scans over a rollout, maps over a batch, and takes mean gradients of minibatches. A `Plan` does these on
one device or on several, in pieces that fit the caches of a CPU, with the same results up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import Carry, Observation, Params, PyTree, RnnState
from purejaxppo._util.trees import add_time_axis, drop_time_axis
from purejaxppo.batching import final_observations
from purejaxppo.batching.burn_in import burn_in_steps, start_rnn_state
from purejaxppo.batching.gather import pack, to_device_layout
from purejaxppo.batching.microbatches import (
    Partition,
    choose_partition,
    map_microbatches,
    mean_gradient,
    num_microbatches,
)
from purejaxppo.batching.samples import Batch, Transition
from purejaxppo.batching.sequences import to_sequences
from purejaxppo.config.schema import Config, minibatch_shape
from purejaxppo.devices.sharding import inside_shard_map, replicate, shard

Tree = TypeVar("Tree")


class Minibatch(NamedTuple):
    """A minibatch of C sequences in P microbatches, not gathered yet."""

    data: PyTree  # the packed batch
    take: Callable[[PyTree, Array], Batch]  # (data, index [C]) -> batch with leaves [L, C, ...]
    index: Array  # [P, C / P] columns of the batch
    advantage: Array  # [P, L, C / P] as it enters the surrogate


class Plan(NamedTuple):
    """Static and hashable: part of the program, not of its data."""

    num_envs: int  # N
    num_minibatches: int  # per epoch
    length: int  # L, steps of a training sequence; 1 for feed-forward networks
    num_sequences: int  # M = T * N / L
    burn_in: int  # steps that refresh the recurrent state before a sequence
    choice: Partition  # microbatches and devices, as chosen for the whole run
    per_env: tuple[str, ...] = ()  # fields of the train state with a leading axis N
    truncation_gap: int = 1  # least number of steps between truncations of an environment, if only those are kept
    group_size: int = 1  # environments that share a state, as the agents of a team do

    @property
    def partition(self) -> Partition:
        """The partition in force: one device inside `shard_map`, where every device trains separate runs."""
        return self.choice._replace(num_devices=1) if inside_shard_map() else self.choice

    @property
    def num_devices(self) -> int:
        """Number of devices that execute an update."""
        return self.partition.num_devices

    def place(self, state: Tree) -> Tree:
        """Distribute a train state as every update does, so that all updates are one compiled program."""
        fields: dict[str, PyTree] = state._asdict()  # type: ignore[attr-defined]
        whole = {name: x for name, x in fields.items() if name not in self.per_env}
        split = {name: x for name, x in fields.items() if name in self.per_env}
        return type(state)(**replicate(whole, self.num_devices), **self._by_env(split))

    def _by_env(self, tree: PyTree) -> PyTree:
        """Shard leaves [N, ...] and [N / group_size, ...], if the devices divide that, and replicate all others."""
        count = self.num_devices

        def constrain(x: Array) -> Array:
            by_env = x.ndim > 0 and x.shape[0] in (self.num_envs, self.num_envs // self.group_size)
            return shard(x, count) if by_env and x.shape[0] % count == 0 else replicate(x, count)

        return jax.tree.map(constrain, tree)

    def scan_steps(
        self, step: Callable[..., tuple[Carry, Transition]], carry: Carry, inputs: PyTree, obs: Observation
    ) -> tuple[Carry, Transition]:
        """Scan `step` over time.

        Args:
            step: (carry, inputs at t) -> (carry, transition at t).
            carry: leaves [N, ...].
            inputs: leaves [T, N, ...].
            obs: the first observations, leaves [N, ...].

        Returns:
            The last carry and the rollout, leaves [T, N, ...]. Its `final_obs` is that of all steps, or `Slots` if they
            take less memory.
        """
        carry = shard(carry, self.num_devices)
        inputs = shard(inputs, self.num_devices, axis=1)
        num_steps = jax.tree.leaves(inputs)[0].shape[0]
        count = final_observations.num_slots(obs, num_steps, self.truncation_gap)
        if not count:
            return jax.lax.scan(step, carry, inputs)
        kept = shard(final_observations.start(obs, count), self.num_devices)
        (carry, kept), rows = jax.lax.scan(final_observations.in_slots(step), (carry, kept), inputs)
        return carry, final_observations.with_slots(kept, rows)

    def keeping_all_final_observations(self) -> Plan:
        """Return a plan whose rollouts have the final observations of all steps, not only of truncated ones."""
        return self._replace(truncation_gap=1)

    @staticmethod
    def steps_at(rollout: Transition, t: Array) -> Transition:
        """Return the step t[n] of each environment n, leaves [N, ...]; see `final_observations.steps_at`."""
        return final_observations.steps_at(rollout, t)

    @staticmethod
    def start_rnn_state(apply: Callable[..., tuple], params: Params, batch: Batch) -> RnnState:
        """Return the recurrent state that the sequences of a batch start from, leaves [M, ...]; see `burn_in`."""
        return start_rnn_state(apply, params, batch.rnn_state, batch.burn_in)

    def map(self, function: Callable[[PyTree], PyTree], batch: PyTree) -> PyTree:
        """Return `function(batch)` from leaves [L, M, ...] to leaves [L', M, ...], computed in microbatches."""
        return map_microbatches(function, batch, self.partition)

    def to_sequences(self, batch: Batch) -> Batch:
        """Divide a batch with leaves [T, N, ...] into training sequences, leaves [L, M, ...].

        The recurrent state is that of the first step of each sequence, [1, M, ...]; `burn_in` gets the steps before it.
        """
        devices = self.num_devices
        batch = jax.tree.map(lambda x: to_sequences(x, self.length, devices), batch)
        batch = shard(batch, devices, axis=1)
        steps = burn_in_steps(batch, self.num_envs, self.burn_in, devices)
        first_state = add_time_axis(drop_time_axis(batch.rnn_state))
        return batch._replace(rnn_state=first_state, burn_in=steps)

    def scan_minibatches(
        self,
        step: Callable[[Carry, Minibatch], tuple[Carry, PyTree]],
        carry: Carry,
        batch: Batch,
        order: Array,
        normalize: Callable[[Array, Array | tuple[()]], Array],
    ) -> tuple[Carry, PyTree]:
        """Scan `step` over the minibatches of one epoch.

        Args:
            step: (carry, minibatch) -> (carry, outputs).
            carry: of the scan.
            batch: leaves [L, M, ...], with the fields `advantage` and `excluded`.
            order: a permutation of the M sequences, int32 [M].
            normalize: (advantage, excluded) of one minibatch, [P, L, C] each -> advantage [P, L, C].

        Returns:
            The last carry and the outputs, stacked over minibatches.
        """
        devices = self.num_devices
        size = order.size // self.num_minibatches
        microbatches = num_microbatches(size, self.length, self.partition)
        index = to_device_layout(order, self.num_envs, devices).reshape(self.num_minibatches, microbatches, -1)

        def gather(x: Array) -> Array:
            return jnp.moveaxis(replicate(x, devices).at[:, index].get(mode="promise_in_bounds"), 0, 2)

        advantage = jax.vmap(normalize)(*jax.tree.map(gather, (batch.advantage, batch.excluded)))
        data, take = pack(batch, devices)

        def body(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, PyTree]:
            return step(carry, Minibatch(data, take, *inputs))

        return jax.lax.scan(body, carry, replicate((index, advantage), devices))

    def mean_gradient(
        self, loss: Callable[[Params, Batch], tuple[Array, Array]], params: Params, minibatch: Minibatch
    ) -> tuple[Array, Array]:
        """Return the gradient of the mean loss of a minibatch, and the auxiliary outputs of its microbatches.

        Args:
            loss: (params, batch with leaves [L, C, ...]) -> (scalar, auxiliary output [m]).
            params: parameters to differentiate by.
            minibatch: of `scan_minibatches`.

        Returns:
            The gradient as one vector, and the auxiliary outputs [P, m].
        """

        def gathered(params: Params, data: PyTree, index: Array, advantage: Array) -> tuple[Array, Array]:
            return loss(params, minibatch.take(data, index)._replace(advantage=advantage))

        inputs = (minibatch.index, minibatch.advantage)
        return mean_gradient(gathered, params, minibatch.data, inputs, self.partition)


def make_plan(
    config: Config, recurrent: bool, per_env: tuple[str, ...], truncation_gap: int = 1, group_size: int = 1
) -> Plan:
    """Choose the plan of a run.

    Args:
        config: static settings.
        recurrent: minibatches hold sequences.
        per_env: fields of the train state with a leading axis N.
        truncation_gap: least number of steps between truncations of an environment; 1 keeps all final observations.
        group_size: environments that share a state.

    Raises:
        ValueError: `config.num_devices` exceeds the number of available devices.
    """
    length, columns = minibatch_shape(config, recurrent)
    partition = choose_partition(config, length, columns)
    return Plan(
        num_envs=config.num_envs,
        num_minibatches=config.num_minibatches,
        length=length,
        num_sequences=config.timesteps_per_update // length,
        burn_in=config.burn_in,
        choice=partition,
        per_env=per_env,
        truncation_gap=truncation_gap,
        group_size=group_size,
    )
