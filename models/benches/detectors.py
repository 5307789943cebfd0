"""Scores the detector of the bundled pack beside YuNet_n: faces found by size, false faces, pictures turned without
EXIF, pictures with every face covered, faces shrunk to 20 pixels. Prints the tables of detector.md.

Needs photographs (groups/, noface/, lfw-dev/), which are not part of this repository, YuNet_n's ONNX file, and:

    cargo build --release --locked -p kith-vision --example analyse
    pip install numpy opencv-python-headless
    python3 detectors.py ../../target/release/examples/analyse FACES yunet_n_640_640.onnx

detectors-truth.json has the faces of groups/ as left, top, right, bottom. They are the faces that either detector was
sure of (MTCNN at 0.99, YuNet at 0.8, also in the picture twice as large); a person checked those found by only one.
That was not possible in crowd_ultra_25.jpg, which does not count for false faces.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import cv2
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
PACK = HERE.parent / "packs" / "dlib-mtcnn"
SIZES = ((20, 30), (30, 40), (40, 60), (60, 100), (100, 10_000))
TURNS = {0: None, 90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
PORTRAITS = 200
UNCOUNTED = "crowd_ultra_25.jpg"


class Mtcnn:
    """Runs the pack as kithd does, through examples/analyse.rs."""

    def __init__(self, analyse, smallest, turned=True):
        self.name = f"MTCNN, from {smallest} px" + ("" if turned else ", not turned")
        self.analyse, self.smallest = analyse, smallest
        self.environment = {**os.environ, "KITH_TURNED": "yes" if turned else "no"}

    def detect(self, pictures):
        with tempfile.TemporaryDirectory() as folder:
            paths = [f"{folder}/{ix:05}.png" for ix in range(len(pictures))]
            for path, picture in zip(paths, pictures):
                cv2.imwrite(path, picture)
            command = [self.analyse, PACK, "int8", str(self.smallest), *paths]
            lines = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        answers = [json.loads(line) for line in lines.splitlines()]
        return [[(np.array(face["bounds"]), np.array(face["landmarks"])) for face in answer["faces"]]
                for answer in answers]


class Yunet:
    """Runs YuNet_n through OpenCV, at the picture's own size."""

    def __init__(self, model, score):
        self.name = f"YuNet_n at {score}"
        self.network = cv2.FaceDetectorYN.create(model, "", (320, 320), score, 0.3, 5000)

    def detect(self, pictures):
        found = []
        for picture in pictures:
            self.network.setInputSize((picture.shape[1], picture.shape[0]))
            faces = self.network.detect(picture)[1]
            faces = [] if faces is None else faces
            found.append([(np.array([f[0], f[1], f[0] + f[2], f[1] + f[3]]), f[4:14].reshape(5, 2)) for f in faces])
        return found


def size(box):
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (size(a) ** 2 + size(b) ** 2 - common)


def lies_as(landmarks, degrees):
    """Tells whether the eyes lie as in a face turned clockwise by `degrees`, give or take 45."""
    eyes = landmarks[1] - landmarks[0]
    off = (np.degrees(np.arctan2(eyes[1], eyes[0])) - degrees + 180) % 360 - 180
    return abs(off) <= 45


def turned(box, degrees, width, height):
    left, top, right, bottom = box
    if degrees == 90:
        return np.array([height - bottom, left, height - top, right])
    if degrees == 180:
        return np.array([width - right, height - bottom, width - left, height - top])
    if degrees == 270:
        return np.array([top, width - right, bottom, width - left])
    return np.array(box)


def right(truth, faces, degrees):
    """Returns how many of the faces lie on this true one, the right way up."""
    return sum(overlap(truth, box) >= 0.3 and lies_as(points, degrees) for box, points in faces)


def report_half(path):
    """Tells whether a person is in this half; thresholds were chosen on the other one."""
    return int(hashlib.sha256(path.name.rsplit("_", 1)[0].encode()).hexdigest()[0], 16) >= 8


def table(title, columns, rows):
    print(f"\n{title}\n\n| |" + "|".join(columns) + "|\n|---" * 1 + "|---" * len(columns) + "|")
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(analyse, folder, model):
    cv2.setNumThreads(1)
    folder = pathlib.Path(folder)
    truth = json.loads((HERE / "detectors-truth.json").read_text())
    names = sorted(truth)
    groups = [cv2.imread(str(folder / "groups" / name)) for name in names]
    scenes = sorted((folder / "noface").iterdir())
    scene_pictures = [cv2.imread(str(path)) for path in scenes]
    yunets = [Yunet(model, 0.6), Yunet(model, 0.8)]
    detectors = [Mtcnn(analyse, 40), Mtcnn(analyse, 20), *yunets]

    rows = []
    for detector in detectors:
        found = detector.detect(groups)
        cells = []
        for low, high in SIZES:
            wanted = [(t, f) for name, f in zip(names, found) for t in truth[name] if low <= size(t) < high]
            cells.append(f"{sum(right(t, f, 0) > 0 for t, f in wanted)} of {len(wanted)}")
        false = [(name, box) for name, faces in zip(names, found) if name != UNCOUNTED for box, _ in faces
                 if not any(overlap(t, box) >= 0.3 for t in truth[name])]
        cells.append(f"{len(false)}, {sum(size(box) >= 40 for _, box in false)}")
        in_scenes = [(path.name, round(size(box))) for path, faces in zip(scenes, detector.detect(scene_pictures))
                     for box, _ in faces]
        cells.append(", ".join(f"{name} {px} px" for name, px in in_scenes) or "none")
        rows.append((detector.name, cells))
    table("Faces of groups/ found by size, false faces there (all, from 40 px), and faces in noface/",
          [f"{low}–{high} px" if high < 1000 else f"{low} px and more" for low, high in SIZES]
          + ["false in groups/", "in noface/"], rows)

    rows = []
    for detector in [Mtcnn(analyse, 40), Mtcnn(analyse, 40, turned=False), *yunets]:
        cells = []
        for degrees, code in TURNS.items():
            pictures = groups if code is None else [cv2.rotate(picture, code) for picture in groups]
            found = detector.detect(pictures)
            wanted = [(turned(t, degrees, p.shape[1], p.shape[0]), f)
                      for name, p, f in zip(names, groups, found) for t in truth[name] if size(t) >= 40]
            cells.append(f"{sum(right(t, f, degrees) > 0 for t, f in wanted)} of {len(wanted)}")
        rows.append((detector.name, cells))
    table("Faces of 40 px and more in groups/, turned clockwise, found with landmarks the right way up",
          [f"{degrees}°" for degrees in TURNS], rows)

    portraits = [path for path in sorted((folder / "lfw-dev").glob("*.jpg")) if report_half(path)]
    portraits = portraits[::len(portraits) // PORTRAITS][:PORTRAITS]
    portraits = [cv2.imread(str(path)) for path in portraits]
    # In LFW the labelled face is in the middle, about 110 of 250 pixels.
    middle = np.array([70, 70, 180, 180])
    rows = []
    for detector in [Mtcnn(analyse, 40), Mtcnn(analyse, 40, turned=False), *yunets]:
        cells = []
        for degrees, code in TURNS.items():
            pictures = portraits if code is None else [cv2.rotate(picture, code) for picture in portraits]
            cells.append(str(sum(right(middle, f, degrees) > 0 for f in detector.detect(pictures))))
        rows.append((detector.name, cells))
    table(f"Of {len(portraits)} portraits of lfw-dev (report half), turned clockwise, the face found the right way up",
          [f"{degrees}°" for degrees in TURNS], rows)

    faceless = [cv2.imread(str(path)) for path in sorted((folder / "lfw-dev").glob("*.jpg")) if not report_half(path)]
    seen = zip(faceless, Mtcnn(analyse, 40).detect(faceless), Yunet(model, 0.3).detect(faceless))
    faceless = [covered(picture, [box for box, _ in mtcnn + yunet]) for picture, mtcnn, yunet in seen]
    found = [[points for _, points in faces] for faces in Mtcnn(analyse, 40).detect(faceless)]
    cells = [str(sum(any(lies_as(points, degrees) for points in faces) for faces in found)) for degrees in TURNS]
    table(f"Of {len(faceless)} portraits of lfw-dev (tuning half) with every face covered, any face found",
          ["upright", "turned 90°", "180°", "270°"], [("MTCNN, from 40 px", cells)])

    rows = []
    for detector in [Mtcnn(analyse, 20), *yunets]:
        cells = []
        for px in (14, 16, 20, 24, 30):
            side = round(250 * px / 110)
            found = detector.detect([placed(picture, side) for picture in portraits])
            at = np.array([57, 31, 57, 31]) + middle * px / 110
            cells.append(str(sum(right(at, faces, 0) > 0 for faces in found)))
        rows.append((detector.name, cells))
    table(f"Of {len(portraits)} portraits (report half) shrunk on a plain canvas of 320×240, the face found",
          [f"{px} px" for px in (14, 16, 20, 24, 30)], rows)


def covered(picture, boxes):
    """Covers every face with a grey square of 1.7 times its side."""
    picture = picture.copy()
    for left, top, right, bottom in boxes:
        across, down, half = (left + right) / 2, (top + bottom) / 2, 0.85 * max(right - left, bottom - top)
        rows, columns = [slice(int(max(at - half, 0)), int(max(at + half, 0))) for at in (down, across)]
        picture[rows, columns] = 127
    return picture


def placed(picture, side):
    canvas = np.full((240, 320, 3), 120, np.uint8)
    canvas[31:31 + side, 57:57 + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return canvas


if __name__ == "__main__":
    main(*sys.argv[1:])
