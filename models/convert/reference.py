"""The whole pipeline in numpy, OpenCV and onnxruntime: detect, align, embed.

Serves to calibrate and measure the networks of a pack independently of the Rust code. It is not shipped, not fast, and
not the specification, which is models/src. Reads its parameters from the pack's pack.toml.
"""

import tomllib

import cv2
import numpy as np
import onnxruntime


def session(path, threads=1):
    options = onnxruntime.SessionOptions()
    # Without VNNI, onnxruntime's fast 8-bit products saturate and embeddings move by 0.18.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read_picture(path):
    """Returns an RGB picture, or None if it cannot be decoded."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def suppress(boxes, scores, limit, smaller=False):
    """Returns the indices that survive non-maximum suppression, best first; `smaller` divides by the smaller area."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        width = np.maximum(0, np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1)
        height = np.maximum(0, np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1)
        common = width * height
        whole = np.minimum(areas[best], areas[rest]) if smaller else areas[best] + areas[rest] - common
        order = rest[common / whole <= limit]
    return np.array(keep, int)


def make_square(boxes):
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = np.maximum(width, height)
    left, top = boxes[:, 0] + (width - side) / 2, boxes[:, 1] + (height - side) / 2
    return np.stack([left, top, left + side, top + side], 1)


def sizes(boxes):
    """Returns (width, height, width, height) in MTCNN's inclusive pixels."""
    wh = boxes[:, 2:] - boxes[:, :2] + 1
    return np.concatenate([wh, wh], 1)


def normalise(pictures):
    return ((np.asarray(pictures, np.float32) - 127.5) / 128).transpose(0, 3, 1, 2)


def cut(picture, boxes, size):
    """Cuts out `boxes`, black beyond the picture, scaled to `size`."""
    height, width = picture.shape[:2]
    cuts = []
    for x1, y1, x2, y2 in boxes.round().astype(int):
        side = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), 3), np.uint8)
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if right > left and bottom > top:
            side[top - y1:bottom - y1, left - x1:right - x1] = picture[top:bottom, left:right]
        cuts.append(cv2.resize(side, (size, size), interpolation=cv2.INTER_AREA))
    return normalise(cuts)


class Mtcnn:
    NONE = np.zeros((0, 5)), np.zeros((0, 5, 2))

    def __init__(self, folder, detector, threads=1):
        self.pnet, self.rnet, self.onet = (session(folder / detector[n], threads) for n in ("pnet", "rnet", "onet"))
        self.min_face, self.factor = detector["min_face_px"], detector["pyramid_factor"]
        self.thresholds, self.sure, self.overlap = detector["thresholds"], detector["sure"], detector["overlap"]

    def detect(self, picture):
        """Returns (boxes with score, landmarks) of an RGB picture."""
        boxes = self.propose(picture)
        if not len(boxes):
            return self.NONE
        prob, reg = self.rnet.run(["prob", "reg"], {"input": cut(picture, boxes, 24)})
        keep = prob[:, 0] > self.thresholds[1]
        boxes, scores, reg = boxes[keep], prob[keep, 0], reg[keep]
        keep = suppress(boxes, scores, self.overlap)
        boxes = make_square(boxes[keep] + reg[keep] * sizes(boxes[keep]))
        if not len(boxes):
            return self.NONE
        prob, reg, points = self.onet.run(["prob", "reg", "points"], {"input": cut(picture, boxes, 48)})
        keep = prob[:, 0] > 2 * self.thresholds[2] - 1
        boxes, scores, reg, points = boxes[keep], prob[keep, 0], reg[keep], points[keep]
        wh = sizes(boxes)
        landmarks = np.stack([boxes[:, :1] + points[:, :5] * wh[:, :1] - 1,
                              boxes[:, 1:2] + points[:, 5:] * wh[:, 1:2] - 1], 2)
        boxes = boxes + reg * wh
        keep = suppress(boxes, scores, 0.7, smaller=True)
        return self.confirm(picture, boxes[keep], scores[keep], landmarks[keep])

    def confirm(self, picture, boxes, scores, landmarks):
        """Looks again, mirrored, at the faces the first look was not sure of."""
        doubtful = np.flatnonzero(scores < self.sure)
        if len(doubtful):
            mirrored = cut(picture, make_square(boxes[doubtful]), 48)[..., ::-1]
            again = self.onet.run(["prob"], {"input": np.ascontiguousarray(mirrored)})[0][:, 0]
            scores[doubtful] = (scores[doubtful] + again) / 2
        keep = (scores >= self.sure) | (scores >= self.thresholds[2])
        return np.concatenate([boxes, scores[:, None]], 1)[keep], landmarks[keep]

    def propose(self, picture):
        height, width = picture.shape[:2]
        scale = 12 / self.min_face
        found = []
        while min(height, width) * scale >= 12:
            size = int(np.ceil(width * scale)), int(np.ceil(height * scale))
            level = normalise(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)[None])
            prob, reg = self.pnet.run(["prob", "reg"], {"input": level})
            ys, xs = np.nonzero(prob[0, 0] >= self.thresholds[0])
            boxes = np.stack([xs * 2 + 1, ys * 2 + 1, xs * 2 + 12, ys * 2 + 12], 1) / scale
            scores = prob[0, 0, ys, xs]
            keep = suppress(boxes, scores, 0.5)
            found.append(np.concatenate([boxes, scores[:, None], reg[0][:, ys, xs].T], 1)[keep])
            scale *= self.factor
        if not sum(map(len, found)):
            return np.zeros((0, 4))
        found = np.concatenate(found)
        found = found[suppress(found[:, :4], found[:, 4], 0.7)]
        wh = found[:, 2:4] - found[:, :2]
        return make_square(found[:, :4] + found[:, 5:] * np.concatenate([wh, wh], 1))


def similarity(source, target, weights=None):
    """Returns the least-squares rotation, scale and shift from points `source` to `target`, as a 2x3 matrix."""
    x, y = np.asarray(source).T
    one, zero = np.ones(len(x)), np.zeros(len(x))
    system = np.stack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)], 1).reshape(-1, 4)
    values = np.asarray(target).reshape(-1)
    if weights is not None:
        system, values = system * np.repeat(weights, 2)[:, None], values * np.repeat(weights, 2)
    a, b, right, down = np.linalg.lstsq(system, values, rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


def likeness(rows, means):
    """Returns each row's cosine similarity to the nearest mean; rows and means have unit length."""
    return (rows @ means.T).max(1)


def lengthened(rows, likeness, typical, strength):
    """Lengthens the embeddings of faces that resemble many people, which moves them away from all others."""
    return rows * np.exp(strength * (likeness - typical))[:, None]


def cohort(folder, recogniser):
    """Returns a pack's function for the length of embeddings: the identity if it has no cohort."""
    if "cohort" not in recogniser:
        return lambda rows: rows
    spec = recogniser["cohort"]
    means = np.fromfile(folder / spec["means"], "<f4").reshape(-1, recogniser["dimension"])
    return lambda rows: lengthened(rows, likeness(rows, means), spec["typical"], spec["strength"])


class Pipeline:
    def __init__(self, folder, precision="float32", threads=1, flip=True):
        pack = tomllib.loads((folder / "pack.toml").read_text())
        self.detector = Mtcnn(folder, pack["detector"], threads)
        self.size, self.template = pack["alignment"]["size"], np.array(pack["alignment"]["template"])
        self.mean, self.scale = np.array(pack["recogniser"]["mean"], np.float32), pack["recogniser"]["scale"]
        self.normalised, self.flip = pack["recogniser"]["normalise"], flip
        self.lengthened = cohort(folder, pack["recogniser"])
        recogniser = pack["recogniser"]
        # A file with weights stored once is a float32 network too; models/src/runtime/stored.rs makes the others from
        # it.
        file = recogniser["stored"] if "stored" in recogniser and precision == "float32" else recogniser[precision]
        self.recogniser = session(folder / file, threads)

    def align(self, picture, landmarks):
        matrix = similarity(landmarks, self.template)
        return cv2.warpAffine(picture, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR)

    def input(self, crops):
        scaled = (np.asarray(crops, np.float32) - self.mean) * np.float32(self.scale)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def look(self, crops):
        return self.recogniser.run(["embedding"], {"input": self.input(crops)})[0]

    def embed(self, crops):
        """Returns the embedding of each crop, averaged with that of its mirror image if `flip`."""
        looks = [crops, [crop[:, ::-1] for crop in crops]] if self.flip else [crops]
        return self.lengthened(self.unit(sum(self.unit(self.look(crops)) for crops in looks) / len(looks)))

    def unit(self, rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if self.normalised else rows

    def main_crop(self, picture):
        """Returns the crop of the largest face near the centre, which pair benchmarks compare, or None."""
        landmarks = self.main_face(picture)
        return None if landmarks is None else self.align(picture, landmarks)

    def main_face(self, picture):
        """Returns the landmarks of the largest face near the centre, or None."""
        boxes, landmarks = self.detector.detect(picture)
        if not len(boxes):
            return None
        height, width = picture.shape[:2]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        centres = (boxes[:, :2] + boxes[:, 2:4]) / 2 - np.array([width, height]) / 2
        return landmarks[np.argmax(areas - 2 * (centres ** 2).sum(1))]
