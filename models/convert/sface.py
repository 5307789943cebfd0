"""Makes the stored recogniser of the pack sface from opencv_zoo's block-quantised file.

The weights stay as published: signed bytes in blocks, each block with a scale and a zero point. A frozen batch
normalisation after a convolution or after the last product is folded in: its factors into the scales of each row's
blocks, its shift into a bias. The one before the last product has 49 numbers a channel, which do not line up with
blocks of 64: its factors stay a `Mul`, and its shift goes into the product's bias. The two nodes that normalise the
input are dropped; the caller does that ((pixel - 127.5) / 128, as published). The int8 quantisation (sface_ranges.py)
is stored in constants that no node reads. models/src/runtime/stored.rs makes float32, float16 and int8 networks from
the result, which onnxruntime can run too.

    python3 sface.py PUBLISHED.onnx SFACE_RANGES.json RECOGNISER.onnx
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from network import Network, attributes

# The first version in which DequantizeLinear supports blocks.
OPSET, IR_VERSION = 21, 10


class Reader:
    """The published graph, with its nodes and numbers by name."""

    def __init__(self, graph):
        self.nodes = list(graph.node)
        self.values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers = {name: node for node in graph.node for name in node.input}

    def blocks(self, name):
        """Returns ((bytes, scales, zero points), block size, shape in the graph) that `name` is dequantised from."""
        node, shape = self.makers[name], None
        if node.op_type == "Reshape":
            shape = [int(side) for side in self.values[node.input[1]]]
            node = self.makers[node.input[0]]
        assert node.op_type == "DequantizeLinear", node.op_type
        given = attributes(node)
        parts = [self.values[i] for i in node.input]
        assert given["axis"] == parts[0].ndim - 1
        return parts, given["block_size"], shape

    def numbers(self, name):
        """Returns the numbers that `name` is dequantised to."""
        (stored, scales, zero_points), size, _ = self.blocks(name)
        spread = [np.repeat(part, size, -1)[..., :stored.shape[-1]] for part in (scales, zero_points)]
        return (stored.astype(np.float64) - spread[1]) * spread[0]

    def batch_norm(self, node):
        """Returns the factor and the shift of each channel."""
        assert node.op_type == "BatchNormalization", node.op_type
        gamma, beta, mean, variance = (self.values[i].astype(np.float64) for i in node.input[1:])
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        factor = gamma / np.sqrt(variance + epsilon)
        return factor, beta - mean * factor


class Writer(Network):
    def weights(self, parts, size, factor, shape=None):
        """Adds a float tensor made from unchanged blocks, with each row multiplied by its factor."""
        stored, scales, zero_points = parts
        constants = [self.constant(stored, np.int8), self.constant(scales * factor[:, None]),
                     self.constant(zero_points, np.int8)]
        x = self.add("DequantizeLinear", constants, axis=1, block_size=size)
        return x if shape is None else self.add("Reshape", [x, self.constant(shape, np.int64)])


def convolution(net, read, node, x):
    """Adds a convolution with its batch normalisation and slopes."""
    parts, size, shape = read.blocks(node.input[1])
    norm = read.readers[node.output[0]]
    factor, bias = read.batch_norm(norm)
    given = attributes(node)
    assert given["dilations"] == [1, 1] and len(node.input) == 2
    x = net.add("Conv", [x, net.weights(parts, size, factor, shape), net.constant(bias)],
                group=given["group"], kernel_shape=given["kernel_shape"], pads=given["pads"],
                strides=given["strides"])
    slopes = read.readers[norm.output[0]]
    assert slopes.op_type == "PRelu"
    return net.add("PRelu", [x, net.constant(read.values[slopes.input[1]])])


def product(net, read, node, x, before):
    """Adds the last product with the batch normalisations before and after it."""
    parts, size, _ = read.blocks(node.input[1])
    norm = read.readers[node.output[0]]
    assert norm.output[0] == "fc1" and {a.name: a.i or a.f for a in node.attribute}["transB"] == 1
    factor, shift = read.batch_norm(norm)
    factor_before, shift_before = read.batch_norm(before)
    each = parts[0].shape[1] // len(shift_before)
    added = read.numbers(node.input[1]) @ np.repeat(shift_before, each)
    bias = (read.numbers(node.input[2]) + added) * factor + shift
    x = net.add("Mul", [x, net.constant(factor_before.reshape(-1, 1, 1))])
    x = net.add("Flatten", [x], axis=1)
    net.add("Gemm", [x, net.weights(parts, size, factor), net.constant(bias)], "embedding", transB=1)


def make_recogniser(published, fits, path):
    """Writes the recogniser; `published` is the file's bytes, `fits` is sface_ranges.py's result."""
    read, net = Reader(onnx.load_from_string(published).graph), Writer()
    x = "input"
    for node in read.nodes:
        if node.op_type == "Conv":
            x = convolution(net, read, node, x)
        elif node.op_type == "Gemm":
            product(net, read, node, x, next(n for n in read.nodes if n.name == "bn1"))
    for layer, fit in enumerate(fits):
        for name, dtype in (("factors", np.float32), ("scale", np.float32), ("zero", np.uint8)):
            net.initialisers.append(numpy_helper.from_array(np.array(fit[name], dtype), f"{name}{layer}"))
    net.save(path, "sface", ["N", 3, 112, 112], [("embedding", ["N", 128])], OPSET, IR_VERSION)


if __name__ == "__main__":
    source, ranges, target = map(pathlib.Path, sys.argv[1:])
    make_recogniser(source.read_bytes(), json.loads(ranges.read_text())["fits"], target)
