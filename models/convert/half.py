"""Makes the float16 recogniser from the float32 one; input and embedding stay float32.

It runs on NVIDIA GPUs through tract, and on processors with half-precision arithmetic. tract's CUDA runtime has
convolutions, sums, slices and maxima but no pooling: a pooling layer would copy its values to the processor and back.
So pooling is rewritten, with the same results: a 2x2 average as a depthwise convolution with four quarters, and a 3x3
maximum as maxima of shifted slices, across and then down. The last mean and the 256x128 product stay float32, where
they cost nothing.

    python3 half.py FLOAT32.onnx FLOAT16.onnx
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from network import Network, attributes


class Halver:
    def __init__(self, graph, sizes):
        self.graph, self.sizes = graph, sizes
        self.values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.net = Network()
        self.halves = {}  # tensor of the float graph -> its float16 tensor here

    def input(self, name):
        """Returns a tensor or a constant as float16; sizes and positions stay integers."""
        if name not in self.values:
            return self.halves[name]
        values = self.values[name]
        return self.net.constant(values, np.float16 if values.dtype == np.float32 else values.dtype)

    def integers(self, *values):
        return self.net.constant(values, np.int64)

    def average(self, x, channels):
        weight = np.full((channels, 1, 2, 2), 0.25)
        return self.net.add("Conv", [x, self.net.constant(weight, np.float16)], kernel_shape=[2, 2], strides=[2, 2],
                            group=channels)

    def maximum(self, x, channels, size):
        """Max pooling of 3x3 with stride 2. Pairs of neighbours become an axis; three neighbours are then a pair and
        the first of the next pair."""
        assert size % 2 == 0
        pairs = size // 2
        result = pairs - 1
        for axis, shape in ((2, [channels, pairs, 2, size]), (3, [channels, result, pairs, 2])):
            x = self.net.add("Reshape", [x, self.integers(0, *shape)])
            first, second, third = (
                self.net.add("Slice", [x, self.integers(skip, which), self.integers(skip + result, which + 1),
                                       self.integers(axis, axis + 1)])
                for skip, which in ((0, 0), (0, 1), (1, 0)))
            x = self.net.add("Max", [self.net.add("Max", [first, second]), third])
        return self.net.add("Reshape", [x, self.integers(0, channels, result, result)])

    def node(self, node):
        given = attributes(node)
        channels, size = self.sizes[node.input[0]][1:3]
        if node.op_type == "AveragePool":
            assert given == {"kernel_shape": [2, 2], "strides": [2, 2]}
            return self.average(self.halves[node.input[0]], channels)
        if node.op_type == "MaxPool":
            assert given == {"kernel_shape": [3, 3], "strides": [2, 2]}
            return self.maximum(self.halves[node.input[0]], channels, size)
        return self.net.add(node.op_type, [self.input(i) for i in node.input], **given)

    def run(self):
        self.halves["input"] = self.net.add("Cast", ["input"], to=TensorProto.FLOAT16)
        nodes = list(self.graph.node)
        pool, flatten, product = nodes[-3:]
        assert [pool.op_type, flatten.op_type, product.op_type] == ["GlobalAveragePool", "Flatten", "MatMul"]
        for node in nodes[:-3]:
            self.halves[node.output[0]] = self.node(node)
        x = self.net.add("Cast", [self.halves[pool.input[0]]], to=TensorProto.FLOAT)
        x = self.net.add("Flatten", [self.net.add("GlobalAveragePool", [x])], axis=1)
        self.net.add("MatMul", [x, self.net.constant(self.values[product.input[1]])], "embedding")
        return self.net


def dimensions(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def halve(float32_path, path):
    model = onnx.shape_inference.infer_shapes(onnx.load(float32_path))
    graph = model.graph
    sizes = {value.name: dimensions(value) for value in (*graph.input, *graph.value_info)}
    net = Halver(graph, sizes).run()
    net.save(path, graph.name + "_float16", dimensions(graph.input[0]), [("embedding", dimensions(graph.output[0]))])


if __name__ == "__main__":
    halve(*map(pathlib.Path, sys.argv[1:]))
