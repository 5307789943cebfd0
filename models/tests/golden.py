"""Makes golden.json: what onnxruntime answers for each network on an input made by a formula.

src/golden.rs makes the same input and compares. Run again only when a network changes:
    python models/tests/golden.py        (needs numpy and onnxruntime)
Not for judging accuracy; that is the labelled pairs'.
"""

import json
import pathlib

import numpy as np
import onnxruntime as ort

MODELS = pathlib.Path(__file__).resolve().parent.parent
PACK = MODELS / "packs" / "dlib-mtcnn"
SHARED = MODELS.parent.parent / "shared" / "models"

# Folder, file, input shape, smallest and largest input value, outputs in the order of the decoder.
YUNET = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
NETWORKS = [
    (PACK, "pnet.onnx", [1, 3, 37, 52], -1, 1, ["prob", "reg"]),
    (PACK, "rnet.onnx", [4, 3, 24, 24], -1, 1, ["prob", "reg"]),
    (PACK, "onet.onnx", [4, 3, 48, 48], -1, 1, ["prob", "reg", "points"]),
    (PACK, "recogniser_float32.onnx", [1, 3, 150, 150], -0.48, 0.59, ["embedding"]),
    (PACK, "recogniser_float16.onnx", [1, 3, 150, 150], -0.48, 0.59, ["embedding"]),
    (PACK, "recogniser_int8.onnx", [1, 3, 150, 150], -0.48, 0.59, ["embedding"]),
    (SHARED, "yunet_n_640_640.onnx", [1, 3, 640, 640], 0, 255, YUNET),
    (SHARED, "intel_face_reid_0095.onnx", [1, 3, 128, 128], 0, 255, ["embedding"]),
]


def pattern(shape, low, high):
    """Waves of several lengths: smooth enough to look like a picture, without a period."""
    planes, height, width = shape[0] * shape[1], shape[2], shape[3]
    p, y, x = np.meshgrid(np.arange(planes), np.arange(height), np.arange(width), indexing="ij")
    wave = np.sin(0.37 * x + 0.11 * y + p) + np.sin(0.05 * x * (1 + p % 3) - 0.23 * y) + np.sin(0.017 * x * y / 8.0)
    return (low + (high - low) * (wave / 6.0 + 0.5)).astype(np.float32).reshape(shape)


golden = []
for folder, file, shape, low, high, outputs in NETWORKS:
    session = ort.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    answers = session.run(outputs, {session.get_inputs()[0].name: pattern(shape, low, high)})
    kept = []
    for name, answer in zip(outputs, answers):
        flat = answer.astype(np.float64).ravel()
        # At most 64 values, evenly spaced.
        step = -(-flat.size // 64)
        kept.append({"name": name, "length": flat.size, "step": step, "values": [float(f"{v:.7g}") for v in flat[::step]]})
    golden.append({"file": file, "bundled": folder == PACK, "shape": shape, "low": low, "high": high, "outputs": kept})

lines = ",\n".join(json.dumps(network) for network in golden)
(MODELS / "tests" / "golden.json").write_text(f"[\n{lines}\n]\n")
