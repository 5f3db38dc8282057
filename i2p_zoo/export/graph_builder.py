"""Nodes of an ONNX graph, written as calls: `op.Add(a, 1)`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from i2p_zoo._extras import require


class GraphBuilder:
    """Makes nodes of ONNX's standard operators by their names, in the order of the calls.

    Inputs are values of the graph, or numbers and arrays, which become constants: integers int64, floats float64. Keywords are
    the operator's attributes. A call returns its output, or a list where `outputs` asks for several.
    """

    def __init__(self) -> None:
        self.ir: Any = require("onnx_ir", extra="onnx")
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._numbers = itertools.count()
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], Any] = {}

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if not operator[0].isupper():
            raise AttributeError(operator)

        def call(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            values = [self.constant(value) for value in inputs]
            made = [self.ir.convenience.convert_attribute(name, value) for name, value in attributes.items()]
            node = self.ir.Node("", operator, values, made, num_outputs=outputs)
            for output in node.outputs:  # of its own: bodies of loops share their names with the graph around them
                output.name = f"site_{next(self._numbers)}"
            self.nodes.append(node)
            return node.outputs[0] if outputs == 1 else list(node.outputs)

        return call

    def constant(self, value: Any) -> Any:
        """Returns a number or an array as a constant of the graph, the same for the same; a value of the graph as it is."""
        if value is None or isinstance(value, self.ir.Value):
            return value
        array = np.asarray(value)
        key = (str(array.dtype), array.tobytes(), array.shape)
        if key not in self._constants:
            constant = self.ir.Value(name=f"constant_{len(self._constants)}", const_value=self.ir.tensor(array))
            constant.shape, constant.type = self.ir.Shape(array.shape), self.ir.TensorType(constant.const_value.dtype)
            self._constants[key] = constant
            self.initializers.append(constant)
        return self._constants[key]

    def loop(self, rounds: Any, states: Sequence[Any], step: Callable[..., Sequence[Any]]) -> list[Any]:
        """Runs `step` on int64 values a number of times, each on what the last one returned; returns the last."""
        body = self._record_body(len(states), lambda number, *values: step(*values))
        ended = self.Loop(rounds, np.array(True), *states, body=body, outputs=len(states))
        return [ended] if len(states) == 1 else list(ended)

    def collect(self, rounds: Any, compute: Callable[[Any], Any]) -> Any:
        """Runs `compute` on 0, 1, ... and returns its results, which are float32 and of one shape, stacked."""
        return self.Loop(rounds, np.array(True), body=self._record_body(0, lambda number: [compute(number)]))

    def _record_body(self, states: int, compute: Callable[..., Sequence[Any]]) -> Any:
        """Returns the graph of a loop's body, of the round's number and so many int64 states."""
        ir, outer = self.ir, self.nodes
        self.nodes = []

        def value(name: str, dtype: Any, shape: Any = None) -> Any:
            return ir.Value(name=f"{name}_{next(self._numbers)}", type=ir.TensorType(dtype), shape=shape)

        scalar = ir.Shape([])
        inputs = [value("round", ir.DataType.INT64, scalar), value("condition", ir.DataType.BOOL, scalar)]
        inputs += [value("state", ir.DataType.INT64) for _ in range(states)]
        results = [self.Identity(inputs[1]), *compute(inputs[0], *inputs[2:])]
        types = [ir.DataType.BOOL, *([ir.DataType.INT64] * states), *([ir.DataType.FLOAT] * (len(results) - 1 - states))]
        for result, dtype in zip(results, types, strict=True):
            result.type = ir.TensorType(dtype)
        results[0].shape = scalar
        body = ir.Graph(inputs, results, nodes=self.nodes, name=f"loop_{next(self._numbers)}")
        self.nodes = outer
        return body

    def cast(self, value: Any, dtype: str) -> Any:
        """Returns a value as another type, by numpy's name for it."""
        return self.Cast(value, to=int(self.ir.DataType.from_numpy(np.dtype(dtype))))

    def length(self, value: Any) -> Any:
        """Returns (1,) int64, the first dimension of a value."""
        return self.Shape(value, start=0, end=1)
