"""Writes one ONNX network, node by node, reproducibly.

A helper for the converters in this folder, not a general graph library. Names are numbered in order of creation and no
time, tool or path is recorded, so equal weights give equal files.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
IR_VERSION = 8


def attributes(node):
    """Returns a node's attributes by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


class Network:
    def __init__(self):
        self.nodes = []
        self.initialisers = []

    def constant(self, values, dtype=np.float32):
        name = f"constant{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def add(self, op, inputs, output=None, **attributes):
        output = output or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def pair(self, x, scale, zero_point):
        """Adds a pair: the value in unsigned bytes, and back."""
        parameters = [self.constant(scale, np.float32), self.constant(zero_point, np.uint8)]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, *parameters]), *parameters])

    def conv(self, x, weight, bias, stride=1, padding=0, output=None):
        return self.add("Conv", [x, self.constant(weight), self.constant(bias)], output,
                        kernel_shape=weight.shape[2:], strides=[stride] * 2, pads=[padding] * 4)

    def save(self, path, name, input_shape, outputs, opset=OPSET, ir_version=IR_VERSION):
        graph = helper.make_graph(
            self.nodes, name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, shape) for o, shape in outputs],
            self.initialisers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
