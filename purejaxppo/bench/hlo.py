"""Count the kernels, floating point operations and bytes of a compiled program from its text.

`jax.jit(f).lower(...).compile().as_text()` is optimized HLO: computations, each a list of instructions, one of them the
entry. XLA's own cost analysis counts the body of a loop once. Here the body of a loop counts once per iteration; XLA
notes the number of iterations in the text (`known_trip_count`).

A kernel is an instruction that a device executes by itself: a fusion, a dot, a copy or a library call. Instructions
that only name values (parameter, constant, tuple, bitcast) are not kernels, nor is the second half of an asynchronous
pair. Control flow (while, call, conditional) counts as the kernels inside it, except that a loop that the CPU backend
compiles into one function (`xla_cpu_small_call`) is one kernel.

This module imports only the standard library, so that the environments of peers can load it (benchmarks/peers).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "domain"}

FREE |= {"opt-barrier", "optimization-barrier", "partition-id", "replica-id", "async-update"}

CONTROL = {"while", "call", "conditional", "async-start"}

SLICES = {"dynamic-slice", "slice", "gather"}  # read as many bytes as they write, whatever the size of the operand

GEMM_CALLS = ("gemm", "matmul", "dot")  # in the names of library calls that are matrix products


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # as written, such as f32[8,64]{1,0} or a tuple of such
    operands: tuple[str, ...]  # names; for a parameter, its number
    attributes: str  # the text after the operands, without metadata


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, tuple[Instruction, ...]]  # by name
    entry: str  # name of the computation that a call of the program executes


class Loop(NamedTuple):
    """One while loop of a program."""

    name: str
    trips: int | None  # iterations each time the loop is entered; None if they depend on the data
    iterations: float  # in one execution of the program
    kernels: float  # executed per iteration, including those of inner loops


@dataclass(frozen=True)
class Count:
    """The work of one execution of a program."""

    kernels: dict[str, float]  # executions by opcode
    flops: float  # of matrix products and convolutions; a multiplication and an addition count as two
    bytes: float  # read and written by kernels, as if no cache kept anything from one kernel to the next
    loops: tuple[Loop, ...]

    @property
    def executed(self) -> float:
        """Number of kernels executed."""
        return sum(self.kernels.values())

    def per_iteration(self, trips: int) -> float | None:
        """Return the kernels per iteration of the most expensive loop of `trips` iterations; None if there is none.

        With trips = T this is the loop of the rollout.
        """
        return max((loop.kernels for loop in self.loops if loop.trips == trips), default=None)

    @property
    def unknown_loops(self) -> int:
        """Number of loops whose number of iterations was assumed."""
        return sum(loop.trips is None for loop in self.loops)


def count(text: str, assumed_trips: float = 1.0) -> Count:
    """Count the work of one execution of a compiled program.

    Of the branches of a conditional, the most expensive one counts.

    Args:
        text: `compiled.as_text()`.
        assumed_trips: iterations of a loop whose number of iterations depends on the data. Such a loop also evaluates
            its condition, once more than its body.

    Raises:
        ValueError: `text` is not an HLO program.
    """
    program = parse(text)
    loops: list[Loop] = []
    kernels, flops, moved = _walk(program, program.entry, assumed_trips, 1.0, loops)
    return Count(dict(kernels), flops, moved, tuple(loops))


_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")

_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")

_METADATA = re.compile(r",? metadata=\{.*?\}(?=,|$)")

_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


def parse(text: str) -> Program:
    """Parse the text of a program.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            computations[name] = tuple(lines)
        elif found := _LINE.match(line):
            lines.append(_instruction(found[1], line[found.end() :]))
    if entry not in computations:
        raise ValueError("not the text of a compiled program: it has no ENTRY computation")
    return Program(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    """Parse the text after the `=` of an instruction: shape opcode(operands), attributes."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or (inside,)
    return Instruction(name, rest[:opening], shape, operands, _METADATA.sub("", rest[closing + 1 :]))


def _closing(text: str, start: int) -> int:
    """Return the position of the bracket that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return (dtype, dimensions) of a shape; for a tuple, of each element."""
    return [(dtype, tuple(int(n) for n in dims.split(",") if n)) for dtype, dims in _ARRAY.findall(shape)]


@lru_cache(maxsize=4096)
def shape_bytes(shape: str) -> float:
    """Return the bytes of an array or a tuple of arrays, such as `(f32[8,64]{1,0}, s32[])`."""
    return sum(math.prod(dims) * _width(dtype) for dtype, dims in _arrays(shape))


def _width(dtype: str) -> float:
    """Return the bytes of one element; a token has none."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8.0 if bits else float(dtype == "pred")


def _called(attributes: str, *keys: str) -> list[str]:
    """Return the computations that the attributes `keys` name."""
    found = re.findall(rf"\b(?:{'|'.join(keys)})=(?:%([\w.\-]+)|\{{([^}}]*)\}})", attributes)
    return [name for one, many in found for name in ([one] if one else re.findall(r"%([\w.\-]+)", many))]


def trip_count(attributes: str) -> int | None:
    """Return the number of iterations of a while loop, or None if XLA does not know it."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    return int(found[1]) if found else None


Total = tuple[Counter, float, float]  # kernels by opcode, FLOP, bytes


def _walk(program: Program, name: str, assumed: float, executions: float, loops: list[Loop]) -> Total:
    """Count one execution of the computation `name`, and append its loops to `loops`.

    Args:
        program: the program.
        name: the computation.
        assumed: iterations of loops of unknown length.
        executions: how often one execution of the program executes this computation.
        loops: receives the loops that were met.
    """
    kernels: Counter = Counter()
    flops = moved = 0.0
    shapes = {line.name: line.shape for line in program.computations[name]}
    for line in program.computations[name]:
        if line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        if line.opcode in CONTROL and "xla_cpu_small_call" not in line.attributes:
            more, flop, byte = _control(program, line, assumed, executions, loops)
            kernels.update(more)
        else:
            kernels[line.opcode] += 1
            flop, byte = _flops(program, line, shapes, assumed), _moved(program, line, shapes)
        flops, moved = flops + flop, moved + byte
    return kernels, flops, moved


def _times(total: Total, factor: float) -> Total:
    return Counter({opcode: n * factor for opcode, n in total[0].items()}), total[1] * factor, total[2] * factor


def _plus(a: Total, b: Total) -> Total:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _control(program: Program, line: Instruction, assumed: float, executions: float, loops: list[Loop]) -> Total:
    """Count a while, call or conditional, executed `executions` times."""
    if line.opcode != "while":
        branches = _called(line.attributes, "to_apply", "calls", "called_computations")
        branches += _called(line.attributes, "branch_computations", "true_computation", "false_computation")
        totals = [_walk(program, branch, assumed, executions, loops) for branch in branches]
        return max(totals, key=lambda total: sum(total[0].values()))
    trips = trip_count(line.attributes)
    times = assumed if trips is None else trips
    at = len(loops)
    body = _walk(program, _called(line.attributes, "body")[0], assumed, executions * times, loops)
    loops.insert(at, Loop(line.name, trips, executions * times, sum(body[0].values())))
    if trips is not None:  # then the condition is not evaluated
        return _times(body, times)
    condition = _walk(program, _called(line.attributes, "condition")[0], assumed, executions * (times + 1), loops)
    return _plus(_times(body, times), _times(condition, times + 1))


def _flops(program: Program, line: Instruction, shapes: dict[str, str], assumed: float) -> float:
    """Return the FLOP of the matrix products in one kernel, including those inside a fusion or a small call."""
    if line.opcode == "dot":
        return _product_flops(line, shapes)
    if line.opcode == "convolution":
        return _convolution_flops(line, shapes)
    if line.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', line.attributes)
        is_product = target is not None and any(part in target[1].lower() for part in GEMM_CALLS)
        return _product_flops(line, shapes) if is_product else 0.0
    if line.opcode == "fusion":
        inside = _called(line.attributes, "calls")
        return sum(_walk(program, name, assumed, 1.0, [])[1] for name in inside)
    return _control(program, line, assumed, 1.0, [])[1] if line.opcode in CONTROL else 0.0


def _product_flops(line: Instruction, shapes: dict[str, str]) -> float:
    """Return 2 x elements of the result x length of the sums."""
    contracted = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d",]*)', line.attributes)
    if contracted is None:
        return 0.0
    left = _arrays(shapes[line.operands[0]])[0][1]
    length = math.prod(left[int(i)] for i in re.findall(r"\d+", contracted[1]))
    return 2.0 * math.prod(_arrays(line.shape)[0][1]) * length


def _convolution_flops(line: Instruction, shapes: dict[str, str]) -> float:
    """Return 2 x elements of the result x elements of the convolution kernel per output channel."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", line.attributes)
    kernel = _arrays(shapes[line.operands[1]])[0][1]
    channels = kernel[labels[1].index("o")] if labels else 1
    return 2.0 * math.prod(_arrays(line.shape)[0][1]) * math.prod(kernel) / channels


def _moved(program: Program, line: Instruction, shapes: dict[str, str]) -> float:
    """Return the bytes that one kernel reads and writes.

    Of a buffer that is only sliced or updated in place, only the slice counts.
    """
    operands = [name for name in line.operands if name in shapes]
    if line.opcode in SLICES:
        return 2.0 * shape_bytes(line.shape)
    if line.opcode == "dynamic-update-slice":
        return 2.0 * shape_bytes(shapes[operands[1]])
    inside = _called(line.attributes, "calls") if line.opcode == "fusion" else []
    if not inside:
        return shape_bytes(line.shape) + sum(shape_bytes(shapes[name]) for name in operands)
    body = program.computations[inside[0]]
    return _written(body) + sum(_read(body, i, shapes[name]) for i, name in enumerate(operands))


def _read(body: tuple[Instruction, ...], index: int, shape: str) -> float:
    """Return the bytes that a fusion reads from its operand number `index`."""
    name = next(line.name for line in body if line.opcode == "parameter" and line.operands[0] == str(index))
    users = list(_users(body, name))
    if all(user.opcode in SLICES and user.operands[0] == of for user, of in users):
        return sum(shape_bytes(user.shape) for user, _ in users)
    if all(user.opcode == "dynamic-update-slice" and user.operands[0] == of for user, of in users):
        return 0.0
    return shape_bytes(shape)


def _users(body: tuple[Instruction, ...], name: str) -> Iterator[tuple[Instruction, str]]:
    """Yield the instructions that read `name`, each with the name it reads, following bitcasts."""
    for line in body:
        if name in line.operands:
            yield from _users(body, line.name) if line.opcode == "bitcast" else [(line, name)]


def _written(body: tuple[Instruction, ...]) -> float:
    """Return the bytes that a fusion writes."""
    by_name = {line.name: line for line in body}

    def made_by(line: Instruction) -> Instruction:
        return made_by(by_name[line.operands[0]]) if line.opcode == "bitcast" else line

    root = made_by(body[-1])
    results = [made_by(by_name[name]) for name in root.operands] if root.opcode == "tuple" else [root]
    in_place = [line for line in results if line.opcode == "dynamic-update-slice"]
    updates = sum(shape_bytes(by_name[line.operands[1]].shape) for line in in_place)
    return updates + sum(shape_bytes(line.shape) for line in results if line not in in_place)
