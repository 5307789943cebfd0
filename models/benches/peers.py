"""Measures kithd beside its peers: onnxruntime with the same networks in its best form, and the library
face_recognition (dlib). One thread, one picture, in turn, so that other load on the machine affects all alike.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    cargo build --release --locked -p kithd -p kithd-bench && cargo build --release --locked -p kith-vision --example network
    venv/bin/python peers.py --kithd ../../target/release/kithd --json peers-results.json

Prints the tables of the README; everything else is in the JSON. `--yunet FILE` adds yunet_n_480x640.onnx,
`--before PROGRAM --before-pack FOLDER` an earlier kithd with its pack, and `--pairs FOLDER` the accuracy on the pairs of
its pairs.csv (a pair with a face missing counts as two strangers), and how many pairs are found where one in a thousand
of all comparisons of two people's pictures is nearer.

onnxruntime's best form: float32, or int8 in quantise/dequantise pairs with a scale for each channel of the weights and
unsigned activations, whichever is faster for a network; all graph optimisations, crops in one batch, and everything
around the networks in OpenCV. Detection settings are those of pack.toml. A recogniser whose weights the pack stores once
is tried as it is stored and as kithd makes it, written by the example `network` beside the program. Of the pack's own int8
file and the one that this script quantises the faster one counts; the detector's networks this script quantises. It
calibrates on the picture it measures with: good enough to time, not to judge accuracy by. Where face_recognition is not
installed, what was measured earlier stays in the JSON and in the table, with its date.
"""

import argparse
import csv
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

for library in ("OMP", "OPENBLAS", "MKL"):  # read when the libraries load
    os.environ[f"{library}_NUM_THREADS"] = "1"

import cv2
import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

MODELS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(MODELS / "convert"))
import reference

try:
    import dlib
    import face_recognition
except ImportError:
    face_recognition = None

STAGES = ("decode", "detect", "align", "embed")
WHOLE = "decode to embedding"
BEFORE = "kithd before, int8"


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Calibration(quantization.CalibrationDataReader):
    def __init__(self, name, inputs):
        self.inputs = iter([{name: x} for x in inputs])

    def get_next(self):
        return next(self.inputs, None)


def quantise(source, target, inputs):
    """Writes `source` in onnxruntime's fastest int8 form."""
    name = onnx.load(source).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        prepared = pathlib.Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(target), Calibration(name, inputs), quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8, per_channel=True)
    return target


def fastest(files, given):
    """Returns the name of the fastest of several files of one network, by the shortest of 20 runs in turn."""
    networks = {name: Network(file) for name, file in files.items()}
    times = {name: [] for name in files}
    for _ in range(20):
        for name, network in networks.items():
            network.spent = 0.0
            network.run(None, given)
            times[name].append(network.spent)
    return min(times, key=lambda name: min(times[name]))


class Network:
    """A session that adds up its time."""

    def __init__(self, model):
        self.session, self.spent, self.given = session(model), 0.0, []
        self.input = self.session.get_inputs()[0]
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, outputs, x):
        if self.input.type == "tensor(uint8)":
            x = x.astype(np.uint8)
        start = time.perf_counter()
        found = self.session.run(outputs, {self.input.name: x})
        self.spent += time.perf_counter() - start
        return found


def suppress(boxes, scores, limit):
    """Suppresses non-maxima with OpenCV; boxes include their last pixel."""
    if not len(boxes):
        return np.zeros(0, int)
    rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2] + 1], 1)
    return np.asarray(cv2.dnn.NMSBoxes(rectangles.tolist(), scores.tolist(), 0.0, limit), int).reshape(-1)


class Onnxruntime:
    """The fastest pipeline with onnxruntime; `files` names the model of each network."""

    def __init__(self, name, pack, files):
        self.name, self.settings = name, tomllib.loads((pack / "pack.toml").read_text())
        self.threshold, self.cosine = (matching := self.settings["matching"])["threshold"], matching["metric"] == "cosine"
        self.detector = self.settings["detector"]
        self.networks = {network: Network(files[network]) for network in ("pnet", "rnet", "onet", "recogniser")}
        self.template = np.array(self.settings["alignment"]["template"])
        self.lengthened = reference.cohort(pack, self.settings["recogniser"])

    def decode(self, data):
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def detect(self, picture):
        halves = [picture]  # avoids reading large windows pixel by pixel
        while min(halves[-1].shape[:2]) >= 48:
            halves.append(cv2.resize(halves[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        boxes = self.propose(halves)
        if not len(boxes):
            return []
        prob, reg = self.networks["rnet"].run(["prob", "reg"], self.crops(halves, boxes, 24))
        keep = prob[:, 0] > self.detector["thresholds"][1]
        boxes, scores, reg = boxes[keep], prob[keep, 0], reg[keep]
        keep = suppress(boxes, scores, self.detector["overlap"])
        boxes = reference.make_square(boxes[keep] + reg[keep] * reference.sizes(boxes[keep]))
        if not len(boxes):
            return []
        prob, reg, points = self.networks["onet"].run(["prob", "reg", "points"], self.crops(halves, boxes, 48))
        keep = prob[:, 0] > self.detector["thresholds"][2]
        boxes, scores, reg, points = boxes[keep], prob[keep, 0], reg[keep], points[keep]
        sides = reference.sizes(boxes)
        landmarks = np.stack([boxes[:, :1] + points[:, :5] * sides[:, :1] - 1,
                              boxes[:, 1:2] + points[:, 5:] * sides[:, 1:2] - 1], 2)
        boxes = boxes + reg * sides
        keep = reference.suppress(boxes, scores, 0.7, smaller=True)  # a few at most
        return [(tuple(boxes[k]), landmarks[k]) for k in keep]

    def propose(self, halves):
        height, width = halves[0].shape[:2]
        scale = 12 / self.detector["min_face_px"]
        boxes, scores, shifts = [], [], []
        while min(height, width) * scale >= 12:
            size = int(np.ceil(width * scale)), int(np.ceil(height * scale))
            level = cv2.resize(halves[self.halved(1 / scale, halves)], size, interpolation=cv2.INTER_AREA)
            prob, reg = self.networks["pnet"].run(["prob", "reg"], self.blob([level]))
            ys, xs = np.nonzero(prob[0, 0] >= self.detector["thresholds"][0])
            if len(xs):
                at = np.stack([xs * 2 + 1, ys * 2 + 1, xs * 2 + 12, ys * 2 + 12], 1) / scale
                score = prob[0, 0, ys, xs]
                keep = suppress(at, score, 0.5)
                boxes.append(at[keep])
                scores.append(score[keep])
                shifts.append(reg[0][:, ys[keep], xs[keep]].T)
            scale *= self.detector["pyramid_factor"]
        if not boxes:
            return np.zeros((0, 4))
        boxes, scores, shifts = map(np.concatenate, (boxes, scores, shifts))
        keep = suppress(boxes, scores, 0.7)
        sides = boxes[keep, 2:] - boxes[keep, :2]
        return reference.make_square(boxes[keep] + shifts[keep] * np.concatenate([sides, sides], 1))

    @staticmethod
    def halved(reduction, halves):
        """Returns the smallest copy in which at least two pixels in each direction still make one."""
        return min(max(int(np.log2(reduction)) - 1, 0), len(halves) - 1)

    def crops(self, halves, boxes, size):
        crops = []
        for box in boxes:
            ix = self.halved((box[2] - box[0]) / size, halves) if box[2] - box[0] > size else 0
            picture = halves[ix]
            height, width = picture.shape[:2]
            x1, y1, x2, y2 = (box / 2 ** ix).round().astype(int).tolist()
            left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            crop = picture[top:bottom, left:right]
            if (left, top, right, bottom) != (x1, y1, x2, y2):
                square = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), 3), np.uint8)
                square[top - y1:top - y1 + crop.shape[0], left - x1:left - x1 + crop.shape[1]] = crop
                crop = square
            crops.append(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA))
        return self.blob(crops)

    def blob(self, pictures):
        """Returns RGB planes of BGR pictures, normalised for the detector."""
        return cv2.dnn.blobFromImages(pictures, 1 / 128, mean=(127.5,) * 3, swapRB=True)

    def align(self, picture, face):
        side = self.settings["alignment"]["size"]
        return cv2.warpAffine(picture, reference.similarity(face[1], self.template), (side, side))

    def input(self, crops):
        spec, network = self.settings["recogniser"], self.networks["recogniser"]
        if network.input.type == "tensor(uint8)":
            return np.ascontiguousarray(np.asarray(crops)[..., ::-1].transpose(0, 3, 1, 2))
        return cv2.dnn.blobFromImages(crops, spec["scale"], mean=spec["mean"], swapRB=spec["colour"] == "rgb")

    def embed(self, crop):
        """Embeds as kithd does by default: the crop, for some packs with its mirror image in one batch, each normalised,
        then their mean with the cohort's length."""
        crops = [crop, cv2.flip(crop, 1)] if self.settings["recogniser"].get("flip", True) else [crop]
        looks = self.networks["recogniser"].run(["embedding"], self.input(crops))[0]
        if not self.settings["recogniser"]["normalise"]:
            return looks.mean(0)
        mean = (looks / np.linalg.norm(looks, axis=1, keepdims=True)).mean(0)
        return self.lengthened(mean[None] / np.linalg.norm(mean))[0]


class FaceRecognition:
    """The library's defaults: HOG detector, one up-sampling, five landmarks, no jitter."""

    name = "face_recognition HOG"
    threshold = 0.6
    cosine = False

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

    def embed(self, crop):
        return np.array(self.encoder.compute_face_descriptor(crop))


def apart(peer, one, other):
    """Returns the distance in the peer's metric: euclidean, or for unit embeddings 1 - cosine, half of its square."""
    distance = np.linalg.norm(one - other)
    return distance ** 2 / 2 if peer.cosine else distance


def check(peer, pack, data):
    """Checks that the self-test face comes out near the pack's reference: times of a wrong pipeline are worthless."""
    faces = peer.detect(picture := peer.decode(data))
    assert len(faces) == 1, f"{peer.name} finds {len(faces)} faces in the self-test picture"
    expected = peer.lengthened(np.array([pack["self_test"]["embedding"]]))[0]
    distance = apart(peer, peer.embed(peer.align(picture, faces[0])), expected)
    assert distance < pack["matching"]["threshold"] / 2, f"{peer.name} is {distance:.2f} away from the pack's reference"
    return round(float(distance), 3)


def stage_times(peer, data, rounds):
    """Returns median and shortest time of each stage, and of the whole, in milliseconds."""
    times = {stage: [] for stage in (*STAGES, WHOLE)}
    for network in getattr(peer, "networks", {}).values():
        network.spent = 0.0
    for _ in range(rounds):
        marks = [time.perf_counter()]
        picture = peer.decode(data)
        marks.append(time.perf_counter())
        faces = peer.detect(picture)
        marks.append(time.perf_counter())
        assert len(faces) == 1, f"{peer.name} finds {len(faces)} faces"
        crop = peer.align(picture, faces[0])
        marks.append(time.perf_counter())
        peer.embed(crop)
        marks.append(time.perf_counter())
        for stage, start, end in zip(STAGES, marks, marks[1:]):
            times[stage].append(1000 * (end - start))
        times[WHOLE].append(1000 * (marks[-1] - marks[0]))
    found = {stage: summary(values) for stage, values in times.items()}
    if hasattr(peer, "networks"):
        for name, network in peer.networks.items():
            found[name] = summary([1000 * network.spent / rounds])
        found["networks"] = summary([sum(found[name]["median_ms"] for name in peer.networks)])
    return found


def summary(values):
    return {"median_ms": statistics.median(values), "shortest_ms": min(values)}


def run_times(run, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return summary(times)


class Kithd:
    """The daemon's own benches, in a new process at each turn."""

    def __init__(self, program, pack):
        self.program, self.pack = program, pack
        bench = program.with_name("kithd-bench")
        # Earlier versions had the benches in the program itself.
        self.bench = [bench] if bench.exists() else [program, "bench"]

    def ask(self, program, *arguments, precision=None, pack=None):
        settings = [f"models.pack={pack or self.pack}", *([f"models.precision={precision}"] if precision else [])]
        command = [*program, *map(str, arguments), *(part for one in settings for part in ("--set", one))]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def picture(self, path):
        subprocess.run([*self.bench, "picture", path, "--set", f"models.pack={self.pack}"], check=True)
        return path.read_bytes()

    def stages(self, picture, precision, rounds):
        """Does the same as stage_times. Align includes quality; encoding of thumbnail and crop is left out."""
        answer = self.ask(self.bench, "engine", picture, "--rounds", rounds, "--json", precision=precision)
        assert answer["faces"] == 1, answer
        found = {stage: {of: answer[of][stage] for of in ("median_ms", "shortest_ms")} for stage in STAGES}
        found[WHOLE] = {of: answer[of]["decode_to_embed"] for of in ("median_ms", "shortest_ms")}
        return found

    def networks(self, rounds, pack=None):
        rows = self.ask(self.bench, "networks", "--rounds", rounds, "--json", pack=pack)["networks"]
        return {(row["network"], row["precision"]): {of: row[of] for of in ("median_ms", "shortest_ms")} for row in rows}

    def accuracy(self, folder, precision):
        found = self.ask([self.program], "eval", "--json", "--pairs", folder / "pairs.csv", precision=precision)
        rates = {rate["false_match_rate"]: round(100 * rate["rate"], 2) for rate in found["true_match_rates"]}
        return {
            "threshold": found["threshold"], "pairs": found["pairs"], "pictures": found["pictures"], "no_face": found["misses"],
            "right": round(100 * found["accuracy"], 2), "best": round(100 * found["best_accuracy"], 2),
            "best_threshold": round(found["best_threshold"], 3), "found_at_1_false_match_in_1000": rates[0.001],
        }


class Turns:
    """Measurements by key, one for each turn."""

    def __init__(self):
        self.found = {}

    def add(self, key, times):
        self.found.setdefault(key, []).append(times)

    def ms(self, key):
        return {"median_ms": round(statistics.median(t["median_ms"] for t in self.found[key]), 3),
                "shortest_ms": round(min(t["shortest_ms"] for t in self.found[key]), 3)}

    def ratio(self, one, other):
        """Returns the ratio of the shortest times: other load on the machine lengthens times and never shortens them."""
        return round(self.ms(one)["shortest_ms"] / self.ms(other)["shortest_ms"], 2)


def yunet_pack(network, folder):
    """Makes a pack with this YuNet as its detector and the bundled recogniser."""
    import hashlib
    source, bundled = MODELS / "packs" / "yunet-intel0095" / "pack.toml", MODELS / "packs" / "dlib-mtcnn"
    detector = source.read_text().split("[detector]")[1].split("\n[")[0].splitlines()
    replaced = {"model": f'"{network.name}"', "input": "[480, 640]"}
    detector = [f"{k} = {replaced[k]}" if (k := line.split(" = ")[0]) in replaced else line for line in detector]
    text = (bundled / "pack.toml").read_text()
    head, rest = text.split("[detector]", 1)
    rest = rest[rest.index("\n["):]
    sums = f'"{network.name}" = "{hashlib.sha256(network.read_bytes()).hexdigest()}"\n'
    (folder / "pack.toml").write_text(head + "[detector]" + "\n".join(detector) + rest.rstrip() + "\n" + sums)
    for file in [*bundled.glob("*.f32"), *bundled.glob("*.onnx"), bundled / "selftest.jpg", network]:
        (folder / file.name).symlink_to(file.resolve())
    return folder


def main_face(faces, picture):
    """Returns the largest face near the centre, as reference.main_crop does."""
    height, width = picture.shape[:2]

    def rank(face):
        left, top, right, bottom = face[0]
        off_centre = ((left + right - width) / 2) ** 2 + ((top + bottom - height) / 2) ** 2
        return (right - left) * (bottom - top) - 2 * off_centre

    return max(faces, key=rank)


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
    distances = np.array([apart(peer, embeddings[a], embeddings[b])
                          if a in embeddings and b in embeddings else np.inf for a, b, _ in pairs])
    same = np.array([s for _, _, s in pairs])
    thresholds = np.arange(0.2, 0.8, 0.001)
    right = [np.mean((distances < t) == same) for t in thresholds]
    return {
        "threshold": peer.threshold, "pairs": len(pairs), "pictures": len(files), "no_face": len(files) - len(embeddings),
        "right": round(100 * float(np.mean((distances < peer.threshold) == same)), 2),
        "best": round(100 * float(max(right)), 2), "best_threshold": round(float(thresholds[np.argmax(right)]), 3),
        "found_at_1_false_match_in_1000": round(100 * float(np.mean(distances[same] < nearest_strangers(peer, embeddings, 1e-3))), 2),
    }


def nearest_strangers(peer, embeddings, share):
    """Returns the distance below which this share of all comparisons of different people lies."""
    people = np.array([path.rsplit("_", 1)[0] for path in embeddings])
    rows = np.array(list(embeddings.values()))
    squares = (rows ** 2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)
    distances = distances / 2 if peer.cosine else np.sqrt(distances)
    return np.quantile(distances[np.triu(people[:, None] != people, 1)], share)


def inputs_of(pipeline, data):
    """Returns each network's inputs for this picture, mirrored and darkened too, for calibration."""
    inputs = {name: [] for name in pipeline.networks}
    plain = {name: network.run for name, network in pipeline.networks.items()}

    def recording(name):
        def run(outputs, x):
            inputs[name].append(x)
            return plain[name](outputs, x)
        return run

    for name, network in pipeline.networks.items():
        network.run = recording(name)
    picture = pipeline.decode(data)
    for one in (picture, picture[:, ::-1].copy(), picture // 2):
        for face in pipeline.detect(one):
            pipeline.embed(pipeline.align(one, face))
    for name, network in pipeline.networks.items():
        network.run = plain[name]
    # Only the largest level: one calibration run cannot mix sizes.
    first = inputs["pnet"][0].shape
    inputs["pnet"] = [x for x in inputs["pnet"] if x.shape == first]
    return inputs


def best_files(pack, settings, data, scratch, writer):
    """Returns {network: {form: file}} in float32 and int8; of the recogniser the fastest file of each form."""
    spec, detector = settings["recogniser"], settings["detector"]
    files = {n: {"float32": pack / detector[n]} for n in ("pnet", "rnet", "onet")}
    own = {form: {"the pack's own file": pack / spec[form]} for form in ("float32", "int8") if form in spec}
    if "stored" in spec:
        for form in ("float32", "int8"):
            written = scratch / f"recogniser_{form}.onnx"
            subprocess.run([writer, pack, form, written], check=True)
            own[form] = {"as kithd makes it": written}
        own["float32"]["as stored"] = pack / spec["stored"]
    files["recogniser"] = {"float32": [*own["float32"].values()][0]}
    inputs = inputs_of(Onnxruntime("", pack, {n: f["float32"] for n, f in files.items()}), data)
    notes = []
    for name, forms in files.items():
        quantised = quantise(forms["float32"], scratch / f"{name}_int8.onnx", inputs[name])
        if name != "recogniser":
            forms["int8"] = quantised
            notes.append(f"{name} int8: quantised by this script")
            continue
        own.setdefault("int8", {})["quantised by this script"] = quantised
        for form, candidates in own.items():
            best = fastest(candidates, inputs[name][0])
            forms[form] = candidates[best]
            notes.append(f"{name} {form}: {best}")
    return files, inputs, notes


def measure_networks(turns, files, rounds, shapes):
    """Measures each network in each form on the shapes that kithd uses."""
    noise = np.random.default_rng(1)
    sessions = {(name, form): session(file) for name, forms in files.items() for form, file in forms.items()}
    given = {name: noise.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}

    def turn():
        for (name, form), one in sessions.items():
            feed = one.get_inputs()[0]
            x = given[name]
            x = (x * 127 + 128).astype(np.uint8) if feed.type == "tensor(uint8)" else x
            turns.add(("onnxruntime", name, form), run_times(lambda: one.run(None, {feed.name: x}), rounds))

    for (name, _), one in sessions.items():
        for _ in range(3):
            feed = one.get_inputs()[0]
            one.run(None, {feed.name: np.zeros(shapes[name], np.uint8 if "uint8" in feed.type else np.float32)})
    return turn


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kithd", type=pathlib.Path, required=True, help="the built program, release profile, with kithd-bench beside it")
    bundled = (MODELS / "packs" / "bundled").read_text().strip()
    parser.add_argument("--pack", type=pathlib.Path, default=MODELS / "packs" / bundled)
    parser.add_argument("--before", type=pathlib.Path, help="an earlier kithd to be measured beside this one")
    parser.add_argument("--before-pack", type=pathlib.Path, help="the pack of the earlier one")
    parser.add_argument("--yunet", type=pathlib.Path, help="yunet_n_480x640.onnx")
    parser.add_argument("--pairs", type=pathlib.Path, help="folder with pairs.csv")
    parser.add_argument("--json", type=pathlib.Path, help="where the results go; what is there of face_recognition stays")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=15, help="runs of everything in a turn")
    arguments = parser.parse_args()
    if (arguments.before is None) != (arguments.before_pack is None):
        parser.error("--before and --before-pack go together")
    cv2.setNumThreads(1)
    earlier = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(arguments, pathlib.Path(scratch), earlier)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))


def measure(arguments, scratch, earlier):
    pack, rounds, turns = arguments.pack.resolve(), arguments.rounds, Turns()
    kithd = Kithd(arguments.kithd.resolve(), pack)
    settings = tomllib.loads((pack / "pack.toml").read_text())
    data = kithd.picture(scratch / "picture.jpg")
    files, _, notes = best_files(pack, settings, data, scratch, kithd.program.parent / "examples" / "network")
    before = arguments.before and Kithd(arguments.before.resolve(), arguments.before_pack.resolve())
    side = settings["alignment"]["size"]
    shapes = {"pnet": (1, 3, 144, 192), "rnet": (16, 3, 24, 24), "onet": (1, 3, 48, 48), "recogniser": (1, 3, side, side)}
    if arguments.yunet:
        files["yunet"], shapes["yunet"] = {"float32": arguments.yunet}, (1, 3, 480, 640)
        (scratch / "yunet").mkdir()
        with_yunet = yunet_pack(arguments.yunet, scratch / "yunet")
    networks = measure_networks(turns, files, rounds, shapes)

    # The shortest time of five turns decides the form of each network in the best pipeline.
    for _ in range(5):
        networks()
    best = {name: min(forms, key=lambda form: turns.ms(("onnxruntime", name, form))["shortest_ms"])
            for name, forms in files.items() if name != "yunet"}
    float32 = {name: forms["float32"] for name, forms in files.items()}
    pipelines = {"onnxruntime float32": Onnxruntime("onnxruntime float32", pack, float32),
                 "onnxruntime best": Onnxruntime("onnxruntime best", pack, {n: files[n][f] for n, f in best.items()})}
    reference_picture = (pack / settings["self_test"]["picture"]).read_bytes()
    distances = {name: check(peer, settings, reference_picture) for name, peer in pipelines.items()}
    if face_recognition:
        pipelines[FaceRecognition.name] = FaceRecognition()
    stored = "stored" in settings["recogniser"]
    precisions = [p for p in ("float32", "int8") if stored or p in settings["recogniser"]]
    for peer in pipelines.values():
        stage_times(peer, data, 3)
    turns.found.clear()
    for turn in range(arguments.turns):
        print(f"turn {turn + 1} of {arguments.turns}", file=sys.stderr)
        networks()
        for (name, precision), times in kithd.networks(rounds).items():
            turns.add(("kithd", name, precision), times)
        if arguments.yunet:
            times = kithd.networks(rounds, pack=with_yunet)[("yunet", "float32")]
            turns.add(("kithd", "yunet", "float32"), times)
        for name, peer in pipelines.items():
            for stage, times in stage_times(peer, data, rounds).items():
                turns.add((name, stage), times)
        for precision in precisions:
            for stage, times in kithd.stages(scratch / "picture.jpg", precision, rounds).items():
                turns.add((f"kithd {precision}", stage), times)
        if before:
            for stage, times in before.stages(scratch / "picture.jpg", "int8", rounds).items():
                turns.add((BEFORE, stage), times)
    return gather(arguments, kithd, turns, pipelines, precisions, files, best, notes, distances, earlier)


def gather(arguments, kithd, turns, pipelines, precisions, files, best, notes, distances, earlier):
    today = datetime.date.today().isoformat()
    results = {
        "measured": today, "machine": machine(), "turns": arguments.turns, "rounds": arguments.rounds,
        "versions": {n: importlib.metadata.version(n) for n in ("onnxruntime", "opencv-python-headless")},
        "forms": notes, "best": best, "from_reference": distances, "networks": [], "pipelines": {}, "peers": earlier.get("peers", {}),
    }
    for name, forms in files.items():
        for precision in forms if name == "recogniser" else ["float32"]:
            ours, row = ("kithd", name, precision), {"network": name, "precision": precision}
            row["kithd"] = turns.ms(ours)
            for form in forms:
                row[f"onnxruntime {form}"] = turns.ms(("onnxruntime", name, form))
            # A recogniser is compared with the same precision; a detector's network, float32 in kithd, with the best
            # form.
            against = precision if name == "recogniser" else best.get(name, "float32")
            row["against"], row["ratio"] = against, turns.ratio(ours, ("onnxruntime", name, against))
            results["networks"].append(row)
    names = [*pipelines, *(f"kithd {precision}" for precision in precisions)]
    peers = [*pipelines]
    if (BEFORE, WHOLE) in turns.found:
        names.append(BEFORE)
        peers.append(BEFORE)
    for name in names:
        stages = {stage: turns.ms((name, stage)) for owner, *rest in turns.found if owner == name for stage in rest[:1]}
        results["pipelines"][name] = {"stages": stages}
        if name.startswith("kithd") and name != BEFORE:
            results["pipelines"][name]["ratios"] = {
                peer: {stage: turns.ratio((name, stage), (peer, stage)) for stage in (*STAGES, WHOLE)} for peer in peers}
    if arguments.pairs:
        for name, peer in pipelines.items():
            results["pipelines"][name]["accuracy"] = measure_accuracy(peer, arguments.pairs)
        for precision in precisions:
            results["pipelines"][f"kithd {precision}"]["accuracy"] = kithd.accuracy(arguments.pairs, precision)
    library = FaceRecognition.name
    if library in pipelines:
        found, before = results["pipelines"][library], earlier.get("peers", {}).get(library, {})
        versions = {"dlib": dlib.__version__, "face_recognition": importlib.metadata.version("face_recognition")}
        results["peers"][library] = {"measured": today, "versions": versions, "times": found["stages"],
                                     **{k: v for k, v in {**before, **found}.items() if k == "accuracy"}}
    return results


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, one thread"


def cell(times):
    return f"{times['median_ms']:.2f} ({times['shortest_ms']:.2f})"


def tables(results):
    """Returns the tables as Markdown."""
    versions = results["versions"]
    lines = [f"{results['machine']}, {results['measured']}, onnxruntime {versions['onnxruntime']}, OpenCV "
             f"{versions['opencv-python-headless']}; milliseconds: median (shortest); ratios are of the shortest, below 1: kithd is faster.",
             "", "| network | kithd | onnxruntime float32 | onnxruntime int8 | kithd / onnxruntime |", "|---|---|---|---|---|"]
    for row in results["networks"]:
        others = [cell(row[key]) if (key := f"onnxruntime {form}") in row else "" for form in ("float32", "int8")]
        lines.append(f"| {row['network']} {row['precision']} | {cell(row['kithd'])} | {others[0]} | {others[1]} | "
                     f"{row['ratio']} ({row['against']}) |")
    pipelines = results["pipelines"]
    lines += ["", f"| 640×480, one face | {' | '.join(STAGES)} | {WHOLE} | of it in networks |", "|---|" + "---|" * (len(STAGES) + 2)]
    for name, found in pipelines.items():
        stages = found["stages"]
        pure = cell(stages["networks"]) if "networks" in stages else ""
        lines.append(f"| {name} | " + " | ".join(cell(stages[s]) for s in (*STAGES, WHOLE)) + f" | {pure} |")
    for name, peer in results["peers"].items():
        if name not in pipelines:
            times = peer["times"]
            whole = sum(times[s]["median_ms"] for s in STAGES)
            lines.append(f"| {name}, measured {peer.get('measured', 'earlier')} | " + " | ".join(cell(times[s]) for s in STAGES)
                         + f" | {whole:.1f} | |")
    lines += ["", f"| kithd / peer | {' | '.join(STAGES)} | {WHOLE} |", "|---|" + "---|" * (len(STAGES) + 1)]
    for name, found in pipelines.items():
        for peer, ratios in found.get("ratios", {}).items():
            lines.append(f"| {name} / {peer} | " + " | ".join(str(ratios[s]) for s in (*STAGES, WHOLE)) + " |")
        for peer, other in results["peers"].items():
            if name.startswith("kithd") and name != BEFORE and peer not in pipelines:
                ours, theirs = ([t[s]["shortest_ms"] for s in STAGES] for t in (found["stages"], other["times"]))
                ratios = [a / b for a, b in zip([*ours, sum(ours)], [*theirs, sum(theirs)])]
                lines.append(f"| {name} / {peer}, measured {other.get('measured', 'earlier')} | "
                             + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    known = {name: found["accuracy"] for name, found in {**results["peers"], **pipelines}.items()
             if "threshold" in found.get("accuracy", {})}
    if known:
        lines += ["", "| pairs of pictures | right at its threshold | best threshold | found at 1 false match in 1 000 | no face found |",
                  "|---|---|---|---|---|"]
    for name, one in known.items():
        lines.append(f"| {name} | {one['right']:.2f} % at {one['threshold']} | {one['best']:.2f} % at {one['best_threshold']} | "
                     f"{one['found_at_1_false_match_in_1000']:.1f} % | {one['no_face']} of {one['pictures']} |")
    lines += ["", "onnxruntime's best: " + ", ".join(f"{n} {f}" for n, f in results["best"].items()) + ". "
              + "; ".join(results["forms"]) + "."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
