"""Makes the P-, R- and O-Net of MTCNN as ONNX from the weights in the facenet-pytorch wheel.

The published nets are rewritten so that a convolution and the layers after it are one operator at run time
(models/src/runtime/lower.rs); the results stay equal (test_convert.py):
* The softmax over two classes is the sigmoid of their difference, which is folded into the weights: one
  output `prob`, the probability of a face.
* ceil_mode pooling becomes floor pooling with one more row and column where the size requires it.
* R- and O-Net flatten (width, height, channel); the dense weights are permuted to (channel, height, width).

models/src runs the cascade (and reference.py here, for measurements).
"""

import collections
import pickle
import struct

import numpy as np

from network import Network

TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def load_torch_weights(file):
    """Reads the tensors of a legacy torch pickle without torch, and runs no code that the pickle names."""
    assert pickle.load(file) == TORCH_MAGIC, "not a legacy torch file"
    pickle.load(file)  # protocol version
    pickle.load(file)  # sizes of C types on the machine that wrote it

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "OrderedDict":
                return collections.OrderedDict
            if name == "_rebuild_tensor_v2":
                return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
            if name in ("FloatStorage", "LongStorage"):
                return {"FloatStorage": np.float32, "LongStorage": np.int64}[name]
            raise pickle.UnpicklingError(f"unexpected {module}.{name}")

        def persistent_load(self, reference):
            _, dtype, key, _, _, _ = reference
            return dtype, key

    tensors = Unpickler(file).load()
    dtypes = {key: dtype for (dtype, key), _, _, _ in tensors.values()}
    storages = {}
    for key in pickle.load(file):
        count = struct.unpack("<q", file.read(8))[0]
        storages[key] = np.frombuffer(file.read(count * np.dtype(dtypes[key]).itemsize), dtypes[key])
    weights = {}
    for name, ((_, key), offset, size, stride) in tensors.items():
        flat = storages[key][offset:]
        weights[name] = np.lib.stride_tricks.as_strided(flat, size, [s * flat.itemsize for s in stride]).copy()
    return weights


def prelu(net, x, slopes, axes):
    """Adds a PRelu; `axes` is the number of axes after the channels."""
    return net.add("PRelu", [x, net.constant(slopes.reshape(-1, *[1] * axes))])


def max_pool(net, x, kernel, extra):
    return net.add("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[2, 2], pads=[0, 0, extra, extra])


def convolutions(net, layers, pools):
    """Adds convolutions with PReLU and, where `pools` has one, pooling; `layers` are (weight, bias, slopes)."""
    x = "input"
    for (weight, bias, slopes), pool in zip(layers, pools):
        x = prelu(net, net.conv(x, weight, bias), slopes, 2)
        if pool:
            x = max_pool(net, x, *pool)
    return x


def face_row(weights, name):
    """Returns weight and bias of the face class minus those of the background."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return weight[1:] - weight[:1], bias[1:] - bias[:1]


def make_pnet(weights, path):
    net = Network()
    layers = [(weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], weights[f"prelu{i}.weight"]) for i in (1, 2, 3)]
    # A 2x2 floor pooling with one extra row and column equals ceil_mode for every size.
    x = convolutions(net, layers, [(2, 1), None, None])
    net.add("Sigmoid", [net.conv(x, *face_row(weights, "conv4_1"))], "prob")
    net.conv(x, weights["conv4_2.weight"], weights["conv4_2.bias"], output="reg")
    net.save(path, "mtcnn_pnet", [1, 3, "H", "W"], [("prob", [1, 1, "h", "w"]), ("reg", [1, 4, "h", "w"])])


def make_refiner(weights, path, name, size, pools, dense, last, outputs):
    """Makes R- or O-Net: convolutions, one dense layer, heads. `last` is (channels, side) before the flattening."""
    net = Network()
    layers = [(weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], weights[f"prelu{i}.weight"])
              for i in range(1, dense)]
    x = net.add("Flatten", [convolutions(net, layers, pools)], axis=1)
    channels, side = last
    flat = weights[f"dense{dense}.weight"].reshape(-1, side, side, channels).transpose(3, 2, 1, 0)
    flat = flat.reshape(channels * side * side, -1)
    x = net.add("Gemm", [x, net.constant(flat), net.constant(weights[f"dense{dense}.bias"])])
    x = prelu(net, x, weights[f"prelu{dense}.weight"], 0)
    weight, bias = face_row(weights, f"dense{dense + 1}_1")
    net.add("Sigmoid", [net.add("Gemm", [x, net.constant(weight.T), net.constant(bias)])], "prob")
    for i, (output, _) in enumerate(outputs, 2):
        weight, bias = (weights[f"dense{dense + 1}_{i}.{part}"] for part in ("weight", "bias"))
        net.add("Gemm", [x, net.constant(weight.T), net.constant(bias)], output)
    net.save(path, name, ["N", 3, size, size], [("prob", ["N", 1])] + [(o, ["N", rows]) for o, rows in outputs])


def make_rnet(weights, path):
    # 24 -> 22 -> 11 (one extra) -> 9 -> 4 -> 3
    make_refiner(weights, path, "mtcnn_rnet", 24, [(3, 1), (3, 0), None], 4, (64, 3), [("reg", 4)])


def make_onet(weights, path):
    # 48 -> 46 -> 23 (one extra) -> 21 -> 10 -> 8 -> 4 -> 3
    make_refiner(weights, path, "mtcnn_onet", 48, [(3, 1), (3, 0), (2, 0), None], 5, (128, 3),
                 [("reg", 4), ("points", 10)])
