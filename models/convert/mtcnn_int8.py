"""Makes an int8 P-, R- or O-Net from the float32 one and how its values fit into bytes.

Quantised in the form of quantise.py: pairs of QuantizeLinear and DequantizeLinear, signed 8-bit weights with a scale for each
output channel, unsigned 8-bit values. The input is brought back to the pixels it was made from, so that nothing is lost there.
Behind each convolution a factor for each channel makes channels of small values as exact as others; the weights of the next
layer take it out again. What R- and O-Net compute behind their long dense layer stays float32. Channels are filled up to a
multiple of four, which is how many bytes one instruction multiplies.

The fits come from mtcnn_ranges.py and are committed, so this needs no pictures and always gives the same bytes.

    python3 mtcnn_int8.py FLOAT32.onnx MTCNN_RANGES.json INT8.onnx
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper

from network import Network, attributes

HIGH, GROUP = 127, 4
# The float network's input is made from pixels as (pixel - MEAN) / PIXELS.
MEAN, PIXELS = 127.5, 128.0


class Graph:
    """A float32 network, whose nodes and constants are asked for."""

    def __init__(self, graph):
        self.nodes = list(graph.node)
        self.values = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in graph.initializer}
        self.input, self.outputs = graph.input[0], list(graph.output)

    def readers(self, name):
        """The nodes that take it in."""
        return [node for node in self.nodes if name in node.input]

    def slopes(self):
        """The PRelu nodes behind convolutions, in order."""
        makers = {node.output[0]: node.op_type for node in self.nodes}
        return [node for node in self.nodes if node.op_type == "PRelu" and makers[node.input[0]] == "Conv"]


class Writer(Network):
    def weights(self, weight):
        """Signed bytes with a scale for each row; and the numbers that they stand for."""
        rows = np.abs(weight.reshape(len(weight), -1)).max(1)
        scales = np.maximum(rows / HIGH, np.finfo(np.float32).tiny).astype(np.float32)
        spread = scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        stored = np.clip(np.rint(weight / spread), -HIGH, HIGH)
        constants = [self.constant(stored, np.int8), self.constant(scales), self.constant(np.zeros(len(scales)), np.int8)]
        return self.add("DequantizeLinear", constants, axis=0), stored * spread


def filled(values, axis=0):
    """With zeros at the end of an axis, up to a multiple of GROUP."""
    more = [(0, 0)] * values.ndim
    more[axis] = (0, -values.shape[axis] % GROUP)
    return np.pad(values, more)


class Quantiser:
    def __init__(self, graph, fits):
        self.graph, self.fits, self.net = graph, list(fits), Writer()
        # By what each channel of the values at hand is multiplied; none of the pixels, and none behind the long dense layer.
        self.factors = None
        # Tensor of the float network -> the one here.
        self.names = {}

    def conv(self, node):
        """Weights and bias for values as they are here."""
        weight, bias = (self.graph.values[name] for name in node.input[1:])
        if self.factors is None:
            return weight / PIXELS, bias
        return filled(weight, 1) / self.factors[:, None, None], bias

    def layer(self, conv):
        """A convolution with its slopes, its pooling and the pair behind it."""
        first = self.factors is None
        weight, bias = self.conv(conv)
        (slopes,) = self.graph.readers(conv.output[0])
        fit = self.fits.pop(0)
        factors = np.array(fit["factors"])
        weight, bias = filled(weight * factors.reshape(-1, 1, 1, 1)), filled(bias * factors)
        weights, stored = self.net.weights(weight)
        if first:
            bias = bias - MEAN * stored.sum((1, 2, 3))
        x = self.net.add("Conv", [self.names[conv.input[0]], weights, self.net.constant(bias)], **attributes(conv))
        values = filled(self.graph.values[slopes.input[1]])
        x = self.net.add("PRelu", [x, self.net.constant(values)])
        last, (scale, zero) = slopes, (fit["scale"], fit["zero"])
        pools = [node for node in self.graph.readers(slopes.output[0]) if node.op_type == "MaxPool"]
        small = [node for node in pools if attributes(node)["kernel_shape"] == [2, 2]]
        # The convolution itself takes the largest of two by two, before rounding.
        for pool in small:
            x, last = self.net.add("MaxPool", [x], **attributes(pool)), pool
        x = self.net.pair(x, scale, zero)
        for pool in pools[len(small):]:
            x, last = self.net.add("MaxPool", [x], **attributes(pool)), pool
        self.names[last.output[0]] = x
        self.factors = np.concatenate([factors, np.ones(-len(factors) % GROUP)])

    def run(self):
        outputs = [output.name for output in self.graph.outputs]
        x = self.net.add("Mul", ["input", self.net.constant(PIXELS)])
        x = self.net.add("Add", [x, self.net.constant(MEAN)])
        self.names["input"] = self.net.pair(x, 1.0, 0)
        for node in self.graph.nodes:
            output = node.output[0]
            named = output if output in outputs else None
            behind = [reader.op_type for reader in self.graph.readers(output)]
            if node.op_type == "Conv" and behind == ["PRelu"]:
                self.layer(node)
            elif node.op_type == "Conv":
                weight, bias = self.conv(node)
                weights, _ = self.net.weights(weight)
                inputs = [self.names[node.input[0]], weights, self.net.constant(bias)]
                self.names[output] = self.net.add("Conv", inputs, named, **attributes(node))
            elif node.op_type == "Gemm" and self.factors is not None:
                matrix, bias = (self.graph.values[name] for name in node.input[1:])
                each = len(matrix) // len(self.factors)
                weights, _ = self.net.weights((matrix / np.repeat(self.factors, each)[:, None]).T)
                inputs = [self.names[node.input[0]], weights, self.net.constant(bias)]
                self.names[output] = self.net.add("Gemm", inputs, named, transB=1)
                self.factors = None
            elif node.op_type == "Flatten" or self.factors is None or node.op_type == "Sigmoid":
                inputs = [self.names[i] if i in self.names else self.net.constant(self.graph.values[i]) for i in node.input]
                self.names[output] = self.net.add(node.op_type, inputs, named, **attributes(node))
        return self.net


def shape(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def quantise(float32_path, fits, path):
    """`fits`: of this network, as mtcnn_ranges.py found them."""
    model = onnx.load(float32_path)
    graph = Graph(model.graph)
    net = Quantiser(graph, fits).run()
    net.save(path, model.graph.name + "_int8", shape(graph.input), [(o.name, shape(o)) for o in graph.outputs])


if __name__ == "__main__":
    source, ranges, target = map(pathlib.Path, sys.argv[1:])
    quantise(source, json.loads(ranges.read_text())["fits"][source.stem], target)
