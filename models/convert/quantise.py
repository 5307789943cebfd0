"""Makes the int8 recogniser from the float32 one and a table of value ranges.

The form is the fastest one for onnxruntime, and the one our own operators run (models/src/runtime/lower.rs): pairs of
QuantizeLinear and DequantizeLinear around convolutions with signed 8-bit weights, one scale for each output channel,
and unsigned 8-bit values, one scale for each tensor. Everything after a ReLU has the zero point 0. The input is turned
back into pixels, so that nothing is lost there. Before a residual sum there is a pair too, with a zero point, for
runtimes that add in 8 bits; ours skips it and rounds once, after the sum. The last mean and the 256x128 product stay
float32.

The ranges, and the bias corrections for the shift of each channel's mean by rounding, come from calibrate.py and are
committed, so this needs no pictures and is reproducible.

    python3 quantise.py FLOAT32.onnx RANGES.json INT8.onnx
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper

from network import Network, attributes

HIGH = 127
LEVELS = 255
# Preprocessing of the float network: (pixel - mean) / 256.
MEAN, PIXELS = (122.782, 117.001, 104.298), 256.0


def activation_scale(low, high):
    """Returns the scale and zero point that map [low, high], widened to include 0, onto the unsigned 8-bit values."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / LEVELS)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, LEVELS))


class Quantiser:
    def __init__(self, graph, ranges, corrections):
        self.graph, self.ranges, self.corrections = graph, ranges, corrections
        self.values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.net = Network()
        self.floats = {}  # tensor of the float graph -> its float tensor here, after its pair if it has one
        self.pairs = {}  # tensor of the float graph -> scale and zero point of its pair

    def entrance(self):
        """Turns the input back into pixels, integers from 0 to 255."""
        x = self.net.add("Mul", ["input", self.net.constant(np.full((1, 3, 1, 1), PIXELS))])
        x = self.net.add("Add", [x, self.net.constant(np.array(MEAN).reshape(1, 3, 1, 1))])
        self.pairs["input"] = np.float32(1), 0
        self.floats["input"] = self.net.pair(x, *self.pairs["input"])

    def conv(self, node):
        """Adds a convolution without a pair after it."""
        weight, bias = self.values[node.input[1]].astype(np.float64), self.values[node.input[2]].astype(np.float64)
        if node.input[0] == "input":  # sum(w * (pixel - mean) / 256) + b, on pixels; this layer has no padding
            weight = weight / PIXELS
            bias = bias - (weight.sum((2, 3)) @ np.array(MEAN))
        bias = bias + np.array(self.corrections.get(node.output[0], 0.0))
        scales = np.abs(weight).max((1, 2, 3)) / HIGH
        scales = np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)
        q_weight = np.clip(np.rint(weight / scales.reshape(-1, 1, 1, 1)), -HIGH, HIGH)
        bias_scales = scales * self.pairs[node.input[0]][0]
        q_bias = np.rint(bias / bias_scales.astype(np.float64))
        scale_of, zeros = self.net.constant(scales), self.net.constant(np.zeros(len(scales)), np.int8)
        weights = self.net.add("DequantizeLinear", [self.net.constant(q_weight, np.int8), scale_of, zeros], axis=0)
        biases = self.net.add("DequantizeLinear", [self.net.constant(q_bias, np.int32), self.net.constant(bias_scales),
                                                   self.net.constant(np.zeros(len(scales)), np.int32)], axis=0)
        return self.net.add("Conv", [self.floats[node.input[0]], weights, biases], **attributes(node))

    def keep(self, node):
        """Copies a node unchanged."""
        inputs = [self.net.constant(self.values[i], self.values[i].dtype) if i in self.values else self.floats[i]
                  for i in node.input]
        return self.net.add(node.op_type, inputs, "embedding" if node.output[0] == "embedding" else None, **attributes(node))

    def run(self):
        self.entrance()
        for node in self.graph.node:
            name = node.output[0]
            x = self.conv(node) if node.op_type == "Conv" else self.keep(node)
            if name in self.ranges:
                if node.op_type in ("MaxPool", "AveragePool", "Pad"):  # these keep the range of their input
                    self.pairs[name] = self.pairs[node.input[0]]
                else:
                    self.pairs[name] = activation_scale(*self.ranges[name])
                x = self.net.pair(x, *self.pairs[name])
            self.floats[name] = x
        return self.net


def quantised_tensors(graph):
    """Returns the names of the tensors that get a pair, and so need a range: the inputs of convolutions, sums and the
    last mean, and everything in between, except tensors that only a ReLU reads."""
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    kinds = ("Conv", "Relu", "MaxPool", "AveragePool", "Pad")
    return sorted(node.output[0] for node in graph.node
                  if node.op_type in kinds and set(readers[node.output[0]]) != {"Relu"})


def quantise(float32_path, calibration, path):
    """Writes the int8 network; `calibration` is calibrate.py's result. Returns the Quantiser, which has the new
    names."""
    model = onnx.load(float32_path)
    quantiser = Quantiser(model.graph, calibration["ranges"], calibration["corrections"])
    net = quantiser.run()
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in (model.graph.input[0], model.graph.output[0])]
    net.save(path, model.graph.name + "_int8", shapes[0], [("embedding", shapes[1])])
    return quantiser


if __name__ == "__main__":
    source, table, target = map(pathlib.Path, sys.argv[1:])
    quantise(source, json.loads(table.read_text()), target)
