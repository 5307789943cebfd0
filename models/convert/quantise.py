"""Makes the int8 recogniser from the float32 one and a table of value ranges.

Every convolution becomes a QLinearConv over signed 8-bit values with one scale per tensor: that is the form tract
runs as integer products (per-channel scales, unsigned values and quantise/dequantise pairs are not). The residual
sums stay float32, so rounding does not add up along the network; so does the last 256x128 product.

The ranges come from calibrate.py and are committed, so this needs no pictures and always gives the same bytes.

    python3 quantise.py FLOAT32.onnx RANGES.json INT8.onnx
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper

from network import Network

LOW, HIGH = -128, 127


def activation_scale(low, high):
    """Scale and zero point that map [low, high], widened to hold 0, onto the signed 8-bit values."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / (HIGH - LOW))
    return scale, np.int8(np.clip(round(LOW - low / float(scale)), LOW, HIGH))


class Quantiser:
    def __init__(self, graph, ranges):
        self.graph, self.ranges = graph, ranges
        self.values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.net = Network()
        self.floats = {}     # tensor of the float graph -> its float tensor here
        self.quantised = {}  # tensor of the float graph -> (8-bit tensor here, scale, zero point)

    def scalar(self, value, dtype):
        return self.net.constant(np.array(value, dtype), dtype)

    def parameters(self, scale, zero_point):
        return [self.scalar(scale, np.float32), self.scalar(zero_point, np.int8)]

    def as_float(self, name):
        if name not in self.floats:
            tensor, scale, zero_point = self.quantised[name]
            self.floats[name] = self.net.add("DequantizeLinear", [tensor, *self.parameters(scale, zero_point)])
        return self.floats[name]

    def as_int8(self, name):
        if name not in self.quantised:
            scale, zero_point = activation_scale(*self.ranges[name])
            tensor = self.net.add("QuantizeLinear", [self.floats[name], *self.parameters(scale, zero_point)])
            self.quantised[name] = tensor, scale, zero_point
        return self.quantised[name]

    def conv(self, node, result):
        """`result` is the tensor behind the convolution and its ReLU, if it has one.

        The ReLU needs no operation: its result's range starts at 0, so 8-bit saturation cuts below 0.
        """
        x, x_scale, x_zero = self.as_int8(node.input[0])
        weight, bias = self.values[node.input[1]], self.values[node.input[2]]
        w_scale = np.float32(np.abs(weight).max() / HIGH)
        y_scale, y_zero = activation_scale(*self.ranges[result])
        q_weight = np.clip(np.rint(weight / w_scale), -HIGH, HIGH)
        q_bias = np.rint(bias.astype(np.float64) / (float(x_scale) * float(w_scale)))
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if any(attributes["pads"]):  # tract gathers whole rows where nothing is missing at the border: a tenth faster
            pads = self.net.constant([0, 0, *attributes["pads"][:2], 0, 0, *attributes["pads"][2:]], np.int64)
            x = self.net.add("Pad", [x, pads, self.scalar(x_zero, np.int8)])
            attributes["pads"] = [0] * 4
        y = self.net.add("QLinearConv", [
            x, *self.parameters(x_scale, x_zero),
            self.net.constant(q_weight, np.int8), *self.parameters(w_scale, 0),
            *self.parameters(y_scale, y_zero), self.net.constant(q_bias, np.int32)], **attributes)
        self.quantised[result] = y, y_scale, y_zero

    def keep(self, node):
        """A node that stays as it is, on float32 values."""
        inputs = [self.net.constant(self.values[i], self.values[i].dtype) if i in self.values else self.as_float(i)
                  for i in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        output = node.output[0] if node.output[0] == "embedding" else None
        self.floats[node.output[0]] = self.net.add(node.op_type, inputs, output, **attributes)

    def run(self):
        self.floats["input"] = "input"
        nodes = list(self.graph.node)
        while nodes:
            node = nodes.pop(0)
            if node.op_type == "Conv":
                result = node.output[0]
                if nodes[0].op_type == "Relu" and nodes[0].input[0] == result:
                    result = nodes.pop(0).output[0]
                self.conv(node, result)
            elif node.op_type == "MaxPool":  # picks values, so it needs no float
                x, scale, zero_point = self.as_int8(node.input[0])
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                self.quantised[node.output[0]] = self.net.add("MaxPool", [x], **attributes), scale, zero_point
            else:
                self.keep(node)
        return self.net


def quantised_tensors(graph):
    """Names of the tensors whose ranges the quantiser needs."""
    followers = {n.input[0]: n for n in graph.node if n.op_type == "Relu"}
    names = []
    for node in graph.node:
        if node.op_type == "Conv":
            result = followers[node.output[0]].output[0] if node.output[0] in followers else node.output[0]
            names += [node.input[0], result]
    return sorted(set(names))


def quantise(float32_path, ranges, path):
    model = onnx.load(float32_path)
    net = Quantiser(model.graph, ranges).run()
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in (model.graph.input[0], model.graph.output[0])]
    net.save(path, model.graph.name + "_int8", shapes[0], [("embedding", shapes[1])])


if __name__ == "__main__":
    source, table, target = map(pathlib.Path, sys.argv[1:])
    quantise(source, json.loads(table.read_text())["ranges"], target)
