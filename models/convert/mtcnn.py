"""Makes the P-, R- and O-Net of MTCNN as ONNX from the weights in the facenet-pytorch wheel.

The published nets are rewritten into operations that tract runs fast; the results stay equal (test_convert.py):
* PReLU with a slope a <= 1 is max(x, a*x); a slope above 1 has no such form, see `split_steep_slopes`. The
  product is a 1x1 convolution per channel, which tract runs several times faster than a broadcast product.
* The softmax over two classes is the sigmoid of their difference, which is folded into the weights: one
  output `prob`, the probability of a face.
* ceil_mode pooling is floor pooling with one more row and column where the size needs it.
* R- and O-Net flatten (width, height, channel); the dense weights are permuted to (channel, height, width).

Not for running the cascade: that is models/src (and reference.py here, for measuring).
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


def split_steep_slopes(conv, slopes, following):
    """Replaces PReLU channels with a slope a > 1 by an identity and a ReLU channel.

    prelu(x) = a*x + (1-a)*relu(x), and as both terms' inputs grow with x this holds behind a max pooling too,
    so the two factors move into the following layer's weights.
    """
    (weight, bias), (next_weight, next_bias) = conv, following
    steep = np.flatnonzero(slopes > 1)
    factors = slopes[steep].reshape(1, -1, 1, 1)
    relu_part = (1 - factors) * next_weight[:, steep]
    next_weight = next_weight.copy()
    next_weight[:, steep] *= factors
    slopes = np.concatenate([slopes, np.zeros(len(steep), np.float32)])
    slopes[steep] = 1
    conv = np.concatenate([weight, weight[steep]]), np.concatenate([bias, bias[steep]])
    return conv, slopes, (np.concatenate([next_weight, relu_part], 1), next_bias)


def prelu(net, x, slopes):
    """On [N, C, H, W]."""
    assert (slopes <= 1).all()
    scaled = net.add("Conv", [x, net.constant(slopes.reshape(-1, 1, 1, 1))], group=len(slopes), kernel_shape=[1, 1])
    return net.add("Max", [x, scaled])


def max_pool(net, x, kernel, extra):
    return net.add("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[2, 2], pads=[0, 0, extra, extra])


def convolutions(net, layers, pools):
    """Convolution, PReLU and, where `pools` has one, pooling; `layers` are (weight, bias, slopes)."""
    layers = list(layers)
    x = "input"
    for i, pool in enumerate(pools):
        weight, bias, slopes = layers[i]
        if (slopes > 1).any():
            (weight, bias), slopes, (w, b) = split_steep_slopes((weight, bias), slopes, layers[i + 1][:2])
            layers[i + 1] = (w, b, layers[i + 1][2])
        x = prelu(net, net.conv(x, weight, bias), slopes)
        if pool:
            x = max_pool(net, x, *pool)
    return x


def face_row(weights, name):
    """Weight and bias of the face class minus those of the background."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return weight[1:] - weight[:1], bias[1:] - bias[:1]


def make_pnet(weights, path):
    net = Network()
    layers = [(weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], weights[f"prelu{i}.weight"]) for i in (1, 2, 3)]
    # A 2x2 pooling with one extra row and column floors to what ceil_mode gives for every size.
    x = convolutions(net, layers, [(2, 1), None, None])
    net.add("Sigmoid", [net.conv(x, *face_row(weights, "conv4_1"))], "prob")
    net.conv(x, weights["conv4_2.weight"], weights["conv4_2.bias"], output="reg")
    net.save(path, "mtcnn_pnet", [1, 3, "H", "W"], [("prob", [1, 1, "h", "w"]), ("reg", [1, 4, "h", "w"])])


def make_refiner(weights, path, name, size, pools, dense, last, outputs):
    """R- or O-Net: convolutions, one dense layer, heads. `last` is (channels, side) before the flattening."""
    net = Network()
    layers = [(weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], weights[f"prelu{i}.weight"])
              for i in range(1, dense)]
    x = net.add("Flatten", [convolutions(net, layers, pools)], axis=1)
    channels, side = last
    flat = weights[f"dense{dense}.weight"].reshape(-1, side, side, channels).transpose(3, 2, 1, 0)
    flat = flat.reshape(channels * side * side, -1)
    x = net.add("Gemm", [x, net.constant(flat), net.constant(weights[f"dense{dense}.bias"])])
    slopes = weights[f"prelu{dense}.weight"]
    assert (slopes <= 1).all()
    x = net.add("Max", [x, net.add("Mul", [x, net.constant(slopes.reshape(1, -1))])])
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
