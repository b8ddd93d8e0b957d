"""What a compiled program does when it runs, counted from its text: kernels, floating point operations, bytes.

`jax.jit(f).lower(...).compile().as_text()` is optimised HLO: computations, each a list of instructions, one of them the
entry. A profiler is not needed, and XLA's own cost analysis does not help: it counts the body of a loop once. Here what
is inside a loop counts as often as the loop turns, which XLA writes beside it (`known_trip_count`).

What counts as one kernel: every instruction that a device executes by itself, be it a fusion, a dot, a copy or a call
of a library. What does not: naming things (parameter, constant, tuple, bitcast), control flow (of while, call and
conditional what is inside counts), and the second half of an asynchronous pair. A loop that the CPU compiles into one
function (`xla_cpu_small_call`) is one kernel.
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

SLICES = {"dynamic-slice", "slice", "gather"}  # read as much as they write, however large what they read from

GEMM_CALLS = ("gemm", "matmul", "dot")  # names of library calls that are matrix products


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # as written, such as f32[8,64]{1,0} or a tuple of such
    operands: tuple[str, ...]  # names; of a parameter its number
    attributes: str  # all that stands behind the operands, without metadata


class Program(NamedTuple):
    """A compiled program: its computations by name, and the name of that which is called."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str


class Loop(NamedTuple):
    """One while loop of a program."""

    name: str
    trips: int | None  # turns each time it is entered; None where only the data say
    turns: float  # in all of one execution of the program
    kernels: float  # executed per turn, those of loops inside it too


@dataclass(frozen=True)
class Count:
    """What one execution of a program does."""

    kernels: dict[str, float]  # executions by opcode
    flops: float  # of matrix products and convolutions; a multiplication and an addition are two
    bytes: float  # read and written by kernels, as if no cache held anything between two of them
    loops: tuple[Loop, ...]

    @property
    def executed(self) -> float:
        """All kernels executed."""
        return sum(self.kernels.values())

    def per_turn(self, trips: int) -> float | None:
        """Kernels per turn of the dearest loop of `trips` turns (T: the rollout's); None where the text shows none."""
        return max((loop.kernels for loop in self.loops if loop.trips == trips), default=None)

    @property
    def unknown_loops(self) -> int:
        """Loops whose number of turns was assumed."""
        return sum(loop.trips is None for loop in self.loops)


def count(text: str, assumed_trips: float = 1.0) -> Count:
    """Count what one execution of a compiled program does.

    text: `compiled.as_text()`. assumed_trips: turns of a loop where the program does not say how many; such a loop
    evaluates its condition as well, once more than it turns. Of the branches of a conditional the dearest counts.
    Raises ValueError where `text` is no HLO program.
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
    """Read the text of a program. Raises ValueError where there is no entry."""
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
    """An instruction from what stands behind its `=`: shape opcode(operands), attributes."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or (inside,)
    return Instruction(name, rest[:opening], shape, operands, _METADATA.sub("", rest[closing + 1 :]))


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, dimensions) of a shape, of each element where it is a tuple."""
    return [(dtype, tuple(int(n) for n in dims.split(",") if n)) for dtype, dims in _ARRAY.findall(shape)]


@lru_cache(maxsize=4096)
def _bytes(shape: str) -> float:
    return sum(math.prod(dims) * _width(dtype) for dtype, dims in _arrays(shape))


def _width(dtype: str) -> float:
    """Bytes of one element; a token has none."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8.0 if bits else float(dtype == "pred")


def _called(attributes: str, *keys: str) -> list[str]:
    """Computations named under any of the attributes `keys`."""
    found = re.findall(rf"\b(?:{'|'.join(keys)})=(?:%([\w.\-]+)|\{{([^}}]*)\}})", attributes)
    return [name for one, many in found for name in ([one] if one else re.findall(r"%([\w.\-]+)", many))]


def trip_count(attributes: str) -> int | None:
    """Turns of a while loop as XLA noted them; None where it does not know."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    return int(found[1]) if found else None


Total = tuple[Counter, float, float]  # kernels by opcode, FLOP, bytes


def _walk(program: Program, name: str, assumed: float, turns: float, loops: list[Loop]) -> Total:
    """What one execution of the computation `name` does; `turns` of them are done in all."""
    kernels: Counter = Counter()
    flops = moved = 0.0
    shapes = {line.name: line.shape for line in program.computations[name]}
    for line in program.computations[name]:
        if line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        if line.opcode in CONTROL and "xla_cpu_small_call" not in line.attributes:
            more, flop, byte = _control(program, line, assumed, turns, loops)
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


def _control(program: Program, line: Instruction, assumed: float, turns: float, loops: list[Loop]) -> Total:
    """What a while, call or conditional does."""
    if line.opcode != "while":
        branches = _called(line.attributes, "to_apply", "calls", "called_computations")
        branches += _called(line.attributes, "branch_computations", "true_computation", "false_computation")
        return max(
            (_walk(program, b, assumed, turns, loops) for b in branches), key=lambda total: sum(total[0].values())
        )
    trips = trip_count(line.attributes)
    times = assumed if trips is None else trips
    at = len(loops)
    body = _walk(program, _called(line.attributes, "body")[0], assumed, turns * times, loops)
    loops.insert(at, Loop(line.name, trips, turns * times, sum(body[0].values())))
    if trips is not None:  # then nothing asks whether to go on
        return _times(body, times)
    condition = _walk(program, _called(line.attributes, "condition")[0], assumed, turns * (times + 1), loops)
    return _plus(_times(body, times), _times(condition, times + 1))


def _flops(program: Program, line: Instruction, shapes: dict[str, str], assumed: float) -> float:
    """FLOP of the matrix products in one kernel, those inside a fusion or a small call too."""
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
    """2 x the elements of the result x the length of the sums."""
    contracted = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d",]*)', line.attributes)
    if contracted is None:
        return 0.0
    left = _arrays(shapes[line.operands[0]])[0][1]
    length = math.prod(left[int(i)] for i in re.findall(r"\d+", contracted[1]))
    return 2.0 * math.prod(_arrays(line.shape)[0][1]) * length


def _convolution_flops(line: Instruction, shapes: dict[str, str]) -> float:
    """2 x the elements of the result x the kernel's elements per output channel."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", line.attributes)
    kernel = _arrays(shapes[line.operands[1]])[0][1]
    channels = kernel[labels[1].index("o")] if labels else 1
    return 2.0 * math.prod(_arrays(line.shape)[0][1]) * math.prod(kernel) / channels


def _moved(program: Program, line: Instruction, shapes: dict[str, str]) -> float:
    """Bytes that one kernel reads and writes. Of a buffer that is only sliced, or updated in place, the slice."""
    operands = [name for name in line.operands if name in shapes]
    if line.opcode in SLICES:
        return 2.0 * _bytes(line.shape)
    if line.opcode == "dynamic-update-slice":
        return 2.0 * _bytes(shapes[operands[1]])
    inside = _called(line.attributes, "calls") if line.opcode == "fusion" else []
    if not inside:
        return _bytes(line.shape) + sum(_bytes(shapes[name]) for name in operands)
    body = program.computations[inside[0]]
    return _written(body) + sum(_read(body, i, shapes[name]) for i, name in enumerate(operands))


def _read(body: tuple[Instruction, ...], index: int, shape: str) -> float:
    """Bytes that a fusion reads of its operand number `index`."""
    name = next(line.name for line in body if line.opcode == "parameter" and line.operands[0] == str(index))
    users = list(_users(body, name))
    if all(user.opcode in SLICES and user.operands[0] == of for user, of in users):
        return sum(_bytes(user.shape) for user, _ in users)
    if all(user.opcode == "dynamic-update-slice" and user.operands[0] == of for user, of in users):
        return 0.0
    return _bytes(shape)


def _users(body: tuple[Instruction, ...], name: str) -> Iterator[tuple[Instruction, str]]:
    """(instruction that reads `name`, under which name), through bitcasts."""
    for line in body:
        if name in line.operands:
            yield from _users(body, line.name) if line.opcode == "bitcast" else [(line, name)]


def _written(body: tuple[Instruction, ...]) -> float:
    """Bytes that a fusion writes."""
    by_name = {line.name: line for line in body}

    def made_by(line: Instruction) -> Instruction:
        return made_by(by_name[line.operands[0]]) if line.opcode == "bitcast" else line

    root = made_by(body[-1])
    results = [made_by(by_name[name]) for name in root.operands] if root.opcode == "tuple" else [root]
    in_place = [line for line in results if line.opcode == "dynamic-update-slice"]
    updates = sum(_bytes(by_name[line.operands[1]].shape) for line in in_place)
    return updates + sum(_bytes(line.shape) for line in results if line not in in_place)
