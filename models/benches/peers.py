"""Measures peers by the rules this crate is measured by: the library face_recognition (dlib), and onnxruntime with the
pack's own networks. Accuracy on pairs, and time per stage on one thread. Prints a table, writes JSON.

Not a benchmark of this crate (stages.rs is). Needs its own virtual environment, compiling dlib takes long:

    pip install wheel 'setuptools<81' numpy pillow onnx onnxruntime opencv-python-headless face_recognition
    python3 peers.py RESULTS.json [FOLDER_WITH_pairs.csv]

Without the folder only times are measured. A pair with a face missing counts as two strangers.
"""

import csv
import importlib.metadata
import io
import json
import os
import pathlib
import statistics
import sys
import time

for library in ("OMP", "OPENBLAS", "MKL"):  # read when the libraries load
    os.environ[f"{library}_NUM_THREADS"] = "1"

import cv2
import dlib
import face_recognition
import numpy as np

MODELS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(MODELS / "convert"))
import reference

PACK = MODELS / "packs" / "dlib-mtcnn"
STAGES = ("decode", "detect", "align", "embed")
RUNS = 41
THRESHOLD = 0.6


class Onnxruntime:
    """reference.py over the pack."""

    def __init__(self, precision):
        self.name = f"onnxruntime {precision}"
        self.pipeline = reference.Pipeline(PACK, precision, threads=1)

    def decode(self, data):
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def detect(self, picture):
        boxes, landmarks = self.pipeline.detector.detect(picture)
        return [(tuple(b[:4]), points) for b, points in zip(boxes, landmarks)]

    def align(self, picture, face):
        return self.pipeline.align(picture, face[1])

    def embed(self, chip):
        return self.pipeline.embed([chip])[0]


class FaceRecognition:
    """The library's defaults: HOG detector, one up-sampling, five landmarks, no jitter."""

    name = "face_recognition HOG"

    def __init__(self):
        api = face_recognition.api
        self.encoder = api.face_encoder
        self.predictor = api.pose_predictor_5_point

    def decode(self, data):
        return face_recognition.load_image_file(io.BytesIO(data))

    def detect(self, picture):
        places = face_recognition.face_locations(picture, number_of_times_to_upsample=1, model="hog")
        return [((left, top, right, bottom), None) for top, right, bottom, left in places]

    def align(self, picture, face):
        left, top, right, bottom = face[0]
        return dlib.get_face_chip(picture, self.predictor(picture, dlib.rectangle(left, top, right, bottom)), 150, 0.25)

    def embed(self, chip):
        return np.array(self.encoder.compute_face_descriptor(chip))


def main_face(faces, picture):
    """The largest face near the centre, as reference.main_chip chooses."""
    height, width = picture.shape[:2]

    def rank(face):
        left, top, right, bottom = face[0]
        off_centre = ((left + right - width) / 2) ** 2 + ((top + bottom - height) / 2) ** 2
        return (right - left) * (bottom - top) - 2 * off_centre

    return max(faces, key=rank)


def picture_640x480():
    """The self-test picture, its border repeated to 640x480: one face, a hundred pixels wide."""
    picture = cv2.imread(str(PACK / "selftest.jpg"))
    picture = cv2.copyMakeBorder(cv2.resize(picture, (480, 480)), 0, 0, 80, 80, cv2.BORDER_REPLICATE)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def measure_times(peer, data):
    times = {stage: [] for stage in STAGES}
    for _ in range(RUNS + 3):
        marks = [time.perf_counter()]
        picture = peer.decode(data)
        marks.append(time.perf_counter())
        faces = peer.detect(picture)
        marks.append(time.perf_counter())
        assert len(faces) == 1, f"{peer.name} finds {len(faces)} faces"
        chip = peer.align(picture, faces[0])
        marks.append(time.perf_counter())
        peer.embed(chip)
        marks.append(time.perf_counter())
        for stage, start, end in zip(STAGES, marks, marks[1:]):
            times[stage].append(1000 * (end - start))
    values = {stage: v[3:] for stage, v in times.items()}  # the first runs warm up
    return {stage: {"median_ms": round(statistics.median(v), 3), "shortest_ms": round(min(v), 3)}
            for stage, v in values.items()}


def measure_accuracy(peer, folder):
    with open(folder / "pairs.csv", newline="") as file:
        pairs = [(row["path_a"], row["path_b"], row["same"] == "1") for row in csv.DictReader(file)]
    embeddings = {}
    files = sorted({path for a, b, _ in pairs for path in (a, b)})
    for path in files:
        picture = peer.decode((folder / path).read_bytes())
        faces = peer.detect(picture)
        if faces:
            embeddings[path] = peer.embed(peer.align(picture, main_face(faces, picture)))
    distances = np.array([np.linalg.norm(embeddings[a] - embeddings[b])
                          if a in embeddings and b in embeddings else np.inf for a, b, _ in pairs])
    same = np.array([s for _, _, s in pairs])
    thresholds = np.arange(0.4, 0.8, 0.001)
    right = [np.mean((distances < t) == same) for t in thresholds]
    strangers = np.sort(distances[~same])
    at_one_percent = strangers[len(strangers) // 100]
    return {
        "pairs": len(pairs), "pictures": len(files), "no_face": len(files) - len(embeddings),
        "right_at_0.6": round(100 * float(np.mean((distances < THRESHOLD) == same)), 2),
        "best": round(100 * float(max(right)), 2), "best_threshold": round(float(thresholds[np.argmax(right)]), 3),
        "false_match_at_0.6": round(100 * float(np.mean(distances[~same] < THRESHOLD)), 2),
        "missed_at_0.6": round(100 * float(np.mean(distances[same] >= THRESHOLD)), 2),
        "found_at_1_percent_false_match": round(100 * float(np.mean(distances[same] < at_one_percent)), 2),
    }


def main(target, folder=None):
    cv2.setNumThreads(1)
    peers = [Onnxruntime("float32"), Onnxruntime("int8"), FaceRecognition()]
    data = picture_640x480()
    results = {"versions": {n: importlib.metadata.version(n) for n in ("onnxruntime", "dlib", "face_recognition")},
               "peers": {}}
    for peer in peers:
        result = {"times": measure_times(peer, data)}
        if folder:
            result["accuracy"] = measure_accuracy(peer, folder)
        results["peers"][peer.name] = result
    target.write_text(json.dumps(results, indent=1) + "\n")

    print(f"{'median (shortest) ms':24}" + "".join(f"{stage:>18}" for stage in STAGES))
    for name, result in results["peers"].items():
        cells = (f"{t['median_ms']:.1f} ({t['shortest_ms']:.1f})" for t in result["times"].values())
        print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))
    for name, result in results["peers"].items():
        if folder:
            print(name, result["accuracy"])


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
