"""Makes the float32 recogniser as ONNX from dlib's dlib_face_recognition_resnet_model_v1.dat.

The file is a C++ serialisation of nested templates. Instead of following the templates, this looks for the layer
tags and reads the tensor after each; every size is checked against the architecture below, which is
dlib's `anet_type`. Each affine layer (a frozen batch normalisation) is folded into the convolution before it.
"""

import re

import numpy as np

from network import Network

SIZE = 150
DIMENSION = 128


def read_integer(data, at):
    """Reads dlib's integer: a byte with the sign and the number of bytes, then those bytes, lowest first."""
    length, negative = data[at] & 0x0F, data[at] & 0x80
    value = int.from_bytes(data[at + 1:at + 1 + length], "little")
    return (-value if negative else value), at + 1 + length


def read_tensor_behind(data, at):
    """Reads the first tensor after `at`: version 2 as an integer (01 02), four dimensions, float32 values."""
    at = data.index(b"\x01\x02", at) + 2
    dimensions = []
    for _ in range(4):
        size, at = read_integer(data, at)
        dimensions.append(size)
    return np.frombuffer(data, "<f4", int(np.prod(dimensions)), at)


def read_layers(data):
    """Returns ([(convolution parameters, affine parameters), ...], matrix), in the order of the computation."""
    tags = [(m.group(), read_tensor_behind(data, m.end())) for m in re.finditer(rb"con_4|affine_|fc_2", data)]
    names = [name for name, _ in tags]
    assert names.count(b"con_4") == names.count(b"affine_") == 29 and names.count(b"fc_2") == 1, names
    convolutions = []
    for i, (name, values) in enumerate(tags):
        if name == b"con_4":
            assert names[i + 1] == b"affine_"
            convolutions.append((values, tags[i + 1][1]))
    return convolutions, dict(tags)[b"fc_2"].reshape(256, DIMENSION)


class Recogniser:
    """The architecture, with a method for each building block."""

    def __init__(self, convolutions):
        self.net = Network()
        self.convolutions = iter(convolutions)

    def conv(self, x, channels_in, channels, kernel, stride, padding, relu):
        values, affine = next(self.convolutions)
        count = channels * channels_in * kernel * kernel
        assert len(values) == count + channels and len(affine) == 2 * channels
        weight = values[:count].reshape(channels, channels_in, kernel, kernel)
        gamma, beta = affine[:channels], affine[channels:]
        x = self.net.conv(x, weight * gamma.reshape(-1, 1, 1, 1), values[count:] * gamma + beta, stride, padding)
        return self.net.add("Relu", [x]) if relu else x

    def residual(self, x, channels):
        y = self.conv(x, channels, channels, 3, 1, 1, relu=True)
        y = self.conv(y, channels, channels, 3, 1, 1, relu=False)
        return self.net.add("Relu", [self.net.add("Add", [y, x])])

    def residual_down(self, x, channels_in, channels, size):
        """Adds a residual block of half the size. dlib adds tensors of unequal shape as if the smaller had zeros at its
        end."""
        y = self.conv(x, channels_in, channels, 3, 2, 0, relu=True)
        y = self.conv(y, channels, channels, 3, 1, 1, relu=False)
        x = self.net.add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
        size_y, size_x = (size - 3) // 2 + 1, size // 2
        result = max(size_y, size_x)
        y = self.pad(y, 0, result - size_y)
        x = self.pad(x, channels - channels_in, result - size_x)
        return self.net.add("Relu", [self.net.add("Add", [y, x])]), result

    def pad(self, x, channels, pixels):
        if channels == pixels == 0:
            return x
        return self.net.add("Pad", [x, self.net.constant([0, 0, 0, 0, 0, channels, pixels, pixels], np.int64)])


def make_recogniser(data, path):
    convolutions, matrix = read_layers(data)
    r = Recogniser(convolutions)
    x = r.conv("input", 3, 32, 7, 2, 0, relu=True)  # 72
    x, size = r.net.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2]), 35
    channels_in = 32
    for channels, blocks in ((32, 3), (64, 3), (128, 2), (256, 2)):
        if channels != channels_in:
            x, size = r.residual_down(x, channels_in, channels, size)
        for _ in range(blocks):
            x = r.residual(x, channels)
        channels_in = channels
    x, _ = r.residual_down(x, 256, 256, size)
    assert next(r.convolutions, None) is None
    x = r.net.add("Flatten", [r.net.add("GlobalAveragePool", [x])], axis=1)
    r.net.add("MatMul", [x, r.net.constant(matrix)], "embedding")
    r.net.save(path, "dlib_face_recognition_resnet_model_v1", ["N", 3, SIZE, SIZE], [("embedding", ["N", DIMENSION])])
