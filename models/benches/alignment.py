"""Compares ways to align, embed and compare faces on labelled pairs; prints the table of accuracy.md.

    python models/benches/alignment.py <lfw-dev folder>              every variant, on the tuning half
    python models/benches/alignment.py <lfw-dev folder> --report     the original and the chosen variant, on both halves
    python models/benches/alignment.py <lfw-dev folder> --looks      several crops of each face, and learned transforms
    python models/benches/alignment.py <lfw-dev folder> --enrolled <folder of a folder for each person>
                                                                     people with several enrolled pictures
    python models/benches/alignment.py <lfw-dev folder> --dlib       dlib's own landmarks, and the values before the last layer

Needs numpy, OpenCV and onnxruntime; with --dlib also onnx, dlib and face_recognition_models. Runs the float32
recogniser on one thread. The folder holds LFW pictures and a pairs.csv of path_a,path_b,same. A person is in the tuning
half if the sha256 of the name begins with 0 to 7; a pair counts if both people are in the same half. `kithd eval`
measures the Rust code; this does not.
"""

import argparse
import csv
import pathlib
import sys
import tomllib

import cv2
import numpy as np

MODELS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(MODELS / "convert"))
import cohort  # noqa: E402
import reference  # noqa: E402

# Template of the plain port. The pack's template is this one, enlarged around the crop's centre.
PLAIN = np.array([[47.55, 46.60], [100.48, 46.60], [74.01, 76.56], [50.41, 103.02], [97.61, 103.02]])
# Places of the corners of the eyes (right, then left in the picture) and the nose on dlib's crop: the mean face of five
# points from dlib's image_transforms/interpolation.h, with a quarter added on each side.
DLIB_FIVE = (0.25 + np.array([[0.8596, 0.2135], [0.6461, 0.2290], [0.1206, 0.2137], [0.3341, 0.2291], [0.4901, 0.6278]])) / 1.5 * 150
CHOSEN = 1.05
MIDDLE, SIDE = 74.5, 150
FOLDER = MODELS / "packs" / "dlib-mtcnn"
RECOGNISER = tomllib.loads((FOLDER / "pack.toml").read_text())["recogniser"]
PACK = RECOGNISER["cohort"]


def larger(scale, right=0.0, down=0.0):
    return (PLAIN - MIDDLE) * scale + MIDDLE + np.array([right, down])


class Faces:
    """The main faces of all pictures of one half."""

    def __init__(self, folder, tuning):
        self.pipeline = reference.Pipeline(FOLDER)
        files, self.pictures, self.landmarks, who = {}, [], [], []
        flat = (folder / "pairs.csv").exists()
        for name, path in cohort.named(folder):
            if cohort.is_tuning(name) != tuning:
                continue
            picture = reference.read_picture(path)
            landmarks = None if picture is None else self.pipeline.main_face(picture)
            if landmarks is None and not flat:
                continue
            if landmarks is None:
                sys.exit(f"no face in {path}: leave it out or lower the smallest face")
            files[path.name] = len(who)
            who.append(name)
            self.pictures.append(picture)
            self.landmarks.append(landmarks)
        self.who = np.array(who)
        rows = list(csv.reader(open(folder / "pairs.csv")))[1:] if flat else []
        self.pairs = [(files[a], files[b], same == "1") for a, b, same in rows if a in files and b in files]

    def matrices(self, template=PLAIN, weights=(1, 1, 1, 1, 1), landmarks=None):
        weights = np.sqrt(np.array(weights, float))
        return [reference.similarity(points, template, weights) for points in landmarks or self.landmarks]

    def crops(self, matrices, filter=cv2.INTER_LINEAR):
        return [cv2.warpAffine(p, m, (SIDE, SIDE), flags=filter) for p, m in zip(self.pictures, matrices)]

    def looks(self, crops):
        """Returns (embeddings, embeddings of the mirrored crops), not normalised."""
        look = lambda crops: np.concatenate([self.pipeline.look([crop]) for crop in crops])
        return look(crops), look([crop[:, ::-1] for crop in crops])

    def second_look(self, mirror):
        """Returns landmarks from O-Net on the upright face, or on its mirror image."""
        # Mean place of the detector's boxes on the plain crop.
        middle, side, fine = np.array([72.2, 64.2]), 152.0, 144
        found = []
        for picture, matrix in zip(self.pictures, self.matrices()):
            scale = fine / side
            crop = matrix * scale
            crop[:, 2] -= (middle - side / 2) * scale
            crop = cv2.warpAffine(picture, crop, (fine, fine))
            crop = cv2.resize(crop, (48, 48), interpolation=cv2.INTER_AREA)
            shown = reference.normalise([crop[:, ::-1] if mirror else crop])
            points = self.pipeline.detector.onet.run(["points"], {"input": shown})[0].reshape(2, 5).T * side
            if mirror:
                points = np.stack([side - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]
            found.append(np.linalg.solve(matrix[:, :2], (points + middle - side / 2 - matrix[:, 2]).T).T)
        return found

    def measure(self, rows=None, distances=None, threshold=None, draws=0, keep=slice(None)):
        """Returns accuracy at the best or the given threshold, missed and false pairs, TAR at FAR 1e-3 and 1e-4."""
        kept = np.arange(len(self.who))[keep]
        where = {face: at for at, face in enumerate(kept)}
        if distances is None:
            squares = (rows ** 2).sum(1)
            distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
        pairs = [(where[a], where[b], same) for a, b, same in self.pairs if a in where and b in where]
        first, second, same = map(np.array, zip(*pairs))
        of_pairs = distances[first, second]
        if threshold is None:
            at = np.sort(of_pairs) + 1e-6
            threshold = at[np.argmax([((of_pairs < t) == same).mean() for t in at])]
        names = self.who[kept]
        strangers = names[:, None] != names
        upper = np.triu(np.ones_like(strangers), 1)

        def rates(times=None):
            """Returns the rates; `times` is how often each person was drawn."""
            weight = np.ones(len(pairs)) if times is None else times[first] * times[second]
            right = np.average((of_pairs < threshold) == same, weights=weight)
            far = distances[upper & strangers]
            order = np.argsort(far)
            shares = np.ones(len(far)) if times is None else (times[:, None] * times)[upper & strangers][order]
            shares = np.cumsum(shares) / shares.sum()
            bounds = [far[order[np.searchsorted(shares, share)]] for share in (1e-3, 1e-4)]
            mine = of_pairs[same]
            return [right] + [np.average(mine < bound, weights=weight[same]) for bound in bounds] + bounds[:1]

        result = rates()
        errors = [int((of_pairs[same] >= threshold).sum()), int((of_pairs[~same] < threshold).sum())]
        intervals = []
        people, index = np.unique(names, return_inverse=True)
        random = np.random.default_rng(7)
        for _ in range(draws):
            times = np.bincount(random.integers(len(people), size=len(people)), minlength=len(people))[index]
            intervals.append(rates(times.astype(float))[:3])
        return threshold, result, errors, np.percentile(intervals, [2.5, 97.5], axis=0).T if draws else None, len(pairs)

    def show(self, label, rows=None, **more):
        threshold, (right, tar3, tar4, at), (missed, false), intervals, count = self.measure(rows, **more)
        between = lambda ix: f" ({intervals[ix][0]:.2%} to {intervals[ix][1]:.2%})" if intervals is not None else ""
        print(
            f"| {label} | {right:.2%}{between(0)} | {missed} + {false} of {count} | {threshold:.3f} "
            f"| {tar3:.2%}{between(1)} | {tar4:.2%}{between(2)} | {at:.3f} |",
            flush=True,
        )
        return threshold

    def halves(self, label, make):
        """Measures a learned transform (centre, whitening, cohort): learned on half the people, measured on the
        rest."""
        people = np.unique(self.who)
        found = []
        for seed in range(6):
            half = np.isin(self.who, np.random.default_rng(seed).permutation(people)[: len(people) // 2])
            for fit in (half, ~half):
                found.append(self.measure(**make(fit, ~fit), keep=~fit)[1])
        right, tar3, tar4, at = np.mean(found, axis=0)
        print(f"| {label} | {right:.2%} | | | {tar3:.2%} | {tar4:.2%} | {at:.3f} |", flush=True)


def both(looks):
    return cohort.unit(cohort.unit(looks[0]) + cohort.unit(looks[1]))


def cohort_scores(rows, fit, keep, nearest=50):
    """Returns minus the score, normalised by each face's nearest cohort faces. The cohort is all pictures of the other
    half."""
    cohort, tested = rows[fit], rows[keep]
    scores = tested @ tested.T
    near = np.sort(tested @ cohort.T, 1)[:, -nearest:]
    mean, spread = near.mean(1), near.std(1)
    return -((scores - mean[:, None]) / spread[:, None] + (scores - mean) / spread) / 2


def dense(rows, places, nearest, share):
    """Returns squared distances plus a share of each face's similarity to the nearest places of a map of all faces."""
    near = np.sort(rows @ places.T, 1)[:, -nearest:].mean(1)
    return 2 - 2 * rows @ rows.T + share * (near[:, None] + near)


def long(rows, means, strength):
    likeness = reference.likeness(rows, means)
    return reference.lengthened(rows, likeness, np.median(likeness), strength)


def within(rows, who):
    """Returns the scatter of faces around the mean of their person."""
    around = np.concatenate([rows[who == name] - rows[who == name].mean(0) for name in np.unique(who)])
    return around.T @ around


def evened(rows, scatter, kept, power):
    """Reduces the directions in which a person's faces differ; `kept` is the weight of no change."""
    scatter = scatter / np.trace(scatter) * len(scatter)
    values, vectors = np.linalg.eigh((1 - kept) * scatter + kept * np.eye(len(scatter)))
    return cohort.unit(rows @ (vectors * values**power) @ vectors.T)


def without_first(rows, scatter, count, factor):
    first = np.linalg.eigh(scatter)[1][:, -count:]
    return cohort.unit(rows - (1 - factor) * (rows @ first) @ first.T)


def turned(template, degrees):
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return (template - MIDDLE) @ np.array([[cosine, sine], [-sine, cosine]]) + MIDDLE


def more_looks(faces):
    """Measures several crops of each face, each mirrored too unless stated otherwise; then learned transforms."""
    templates = {f"× {scale}": larger(scale) for scale in (1.0, CHOSEN, 1.1, 1.15)}
    for by in (4, 6, 9):
        templates |= {f"left {by}": larger(CHOSEN, -by), f"right {by}": larger(CHOSEN, by)}
    templates |= {"up 4": larger(CHOSEN, 0, -4), "down 4": larger(CHOSEN, 0, 4)}
    templates |= {f"turned {degrees}": turned(larger(CHOSEN), degrees) for degrees in (-8, -4, 4, 8)}
    found = {name: faces.looks(faces.crops(faces.matrices(points))) for name, points in templates.items()}
    mean = lambda *names: cohort.unit(sum(both(found[name]) for name in names))
    split = lambda plain, mirrored: cohort.unit(cohort.unit(found[plain][0]) + cohort.unit(found[mirrored][1]))
    faces.show("2: chosen", mean("× 1.05"))
    faces.show("2: right 4, left 4 mirrored", split("right 4", "left 4"))
    faces.show("2: left 4, right 4 mirrored", split("left 4", "right 4"))
    faces.show("4: × 1 and × 1.1", mean("× 1.0", "× 1.1"))
    for by in (4, 6, 9):
        faces.show(f"4: left and right {by}", mean(f"left {by}", f"right {by}"))
    faces.show("4: up and down 4", mean("up 4", "down 4"))
    for degrees in (4, 8):
        faces.show(f"4: turned {degrees} degrees both ways", mean(f"turned {degrees}", f"turned -{degrees}"))
    shifts = ("left 4", "right 4", "up 4", "down 4")
    faces.show("8: left, right, up and down 4", mean(*shifts))
    faces.show("12: the same, × 1 and × 1.1", mean(*shifts, "× 1.0", "× 1.1"))
    faces.show(f"{2 * len(found)}: all", mean(*found))
    print("\nEstimated on half the people of the tuning half, measured on the others, mean of 12:\n")
    for label, rows in (("2 looks", mean("× 1.05")), ("4 looks, left and right", mean("left 4", "right 4"))):
        scatter = lambda fit: within(rows[fit], faces.who[fit])
        faces.halves(f"{label}: nothing", lambda fit, keep: {"rows": rows[keep]})
        for kept, power in ((0.9, -0.5), (0.7, -0.25), (0.5, -0.5)):
            faces.halves(
                f"{label}: evened within people, {kept} kept, power {power}",
                lambda fit, keep: {"rows": evened(rows[keep], scatter(fit), kept, power)},
            )
        for count in (1, 8):
            faces.halves(
                f"{label}: first {count} directions within people halved",
                lambda fit, keep: {"rows": without_first(rows[keep], scatter(fit), count, 0.5)},
            )
        for nearest, share in ((20, 0.3), (20, 0.6), (100, 0.3)):
            faces.halves(
                f"{label}: {share} of the nearness to the {nearest} nearest of the cohort",
                lambda fit, keep: {"distances": dense(rows[keep], rows[fit], nearest, share)},
            )
        for strength in (1, 2, 3, 4, 6):
            for count in (32, 48, 64):
                faces.halves(
                    f"{label}: length by the nearest of {count} means of the cohort, strength {strength}",
                    lambda fit, keep: {"rows": long(rows[keep], cohort.means(rows[fit], faces.who[fit], count), strength)},
                )


def enrolled(faces, others, draws=20):
    """Prints the TAR with `count` enrolled pictures of each person and all others as probes, for each way to
    compare."""
    name = lambda who: who.removeprefix("lfw_").lower()
    theirs = np.array([name(who) for who in others.who])
    mine = np.array([name(who) for who in faces.who])
    rest = ~np.isin(mine, theirs)
    make = lambda half: half.looks(half.crops(half.matrices(larger(CHOSEN))))
    looks = [np.concatenate(pair) for pair in zip(make(others), [look[rest] for look in make(faces)])]
    rows, lengths = both(looks), np.linalg.norm(looks[0], axis=1)
    who = np.concatenate([theirs, mine[rest]])
    # Each face is compared with means of other people, made as the pack's are.
    to_others = cohort.likeness_to_others(rows, who)
    long = reference.lengthened(rows, to_others, np.median(to_others), PACK["strength"])
    print("| enrolled | compared by | TAR at FAR 1e-3 | TAR at FAR 1e-4 |\n|---|---|---|---|")
    for count in (2, 3):
        random, rates = np.random.default_rng(3), {}
        people = [person for person in np.unique(who) if (who == person).sum() > count]
        for _ in range(draws):
            chosen = np.array([random.permutation(np.flatnonzero(who == person))[:count] for person in people])
            asked = np.setdiff1d(np.arange(len(who)), chosen)
            single = np.sqrt(np.maximum(2 - 2 * np.einsum("ad,pcd->apc", rows[asked], rows[chosen]), 0))
            weights = lengths[chosen][..., None] ** 4
            to = lambda means: np.sqrt(np.maximum(1 + (means**2).sum(1) - 2 * rows[asked] @ means.T, 0))
            mean = rows[chosen].mean(1)
            ways = {
                "nearest picture": single.min(2),
                "nearest picture, length by the cohort": np.sqrt(((long[asked][:, None, None] - long[chosen]) ** 2).sum(3)).min(2),
                "mean of the distances": single.mean(2),
                "mean picture": to(cohort.unit(mean)),
                "mean picture, not of unit length": to(mean),
                "mean picture, by the length of the embedding": to(cohort.unit((rows[chosen] * weights).sum(1))),
                "nearest of pictures and mean picture": np.minimum(single.min(2), to(cohort.unit(mean))),
                "half nearest, half mean picture": (single.min(2) + to(cohort.unit(mean))) / 2,
            }
            right = who[asked][:, None] == np.array(people)
            for label, distances in ways.items():
                far = np.sort(distances[~right])
                bounds = [far[int(len(far) * share)] for share in (1e-3, 1e-4)]
                rates.setdefault(label, []).append([(distances[right] < bound).mean() for bound in bounds])
        for label, found in rates.items():
            tar3, tar4 = np.mean(found, axis=0)
            print(f"| {count} of {len(people)} people | {label} | {tar3:.2%} | {tar4:.2%} |", flush=True)


def whitened(rows, fit, keep, strength):
    centre = rows[fit].mean(0)
    values, vectors = np.linalg.eigh(np.cov((rows[fit] - centre).T))
    return cohort.unit((rows[keep] - centre) @ (vectors * (values + strength * values.mean()) ** -0.25) @ vectors.T)


def variants(faces):
    plain = faces.looks(faces.crops(faces.matrices()))
    faces.show("plain port: euclidean distance", plain[0])
    faces.show("mirrored crop averaged", (plain[0] + plain[1]) / 2)
    faces.show("unit length", cohort.unit(plain[0]))
    faces.show("unit length, mirrored crop averaged", both(plain))
    by_scale = {1.0: plain}
    for scale in (0.97, 1.03, 1.04, CHOSEN, 1.06, 1.08, 1.1, 1.15):
        by_scale[scale] = faces.looks(faces.crops(faces.matrices(larger(scale))))
        faces.show(f"template × {scale}, unit length", cohort.unit(by_scale[scale][0]))
        faces.show(f"template × {scale}, unit length, mirrored", both(by_scale[scale]))
    chosen = by_scale[CHOSEN]
    faces.show("two scales (1 and 1.1), both mirrored", cohort.unit(both(plain) + both(by_scale[1.1])))
    print("\nEverything below: template × 1.05, unit length, mirrored.\n")
    template = larger(CHOSEN)
    for down in (-2, 2):
        moved = faces.matrices(larger(CHOSEN, 0, down))
        faces.show(f"template moved down by {down}", both(faces.looks(faces.crops(moved))))
    for weights in ((1, 1, 0.5, 1, 1), (1, 1, 0, 1, 1), (2, 2, 1, 1, 1), (1, 1, 1, 2, 2)):
        weighted = faces.matrices(template, weights)
        faces.show(f"landmark weights {weights}", both(faces.looks(faces.crops(weighted))))
    upright, mirrored = faces.second_look(False), faces.second_look(True)
    mean = [(a + b) / 2 for a, b in zip(upright, mirrored)]
    for label, landmarks in (("O-Net again on the upright face", upright), ("the same and on its mirror image", mean)):
        faces.show(label, both(faces.looks(faces.crops(faces.matrices(template, landmarks=landmarks)))))
    matrices = faces.matrices(template)
    for label, filter in (("bicubic", cv2.INTER_CUBIC), ("Lanczos", cv2.INTER_LANCZOS4)):
        faces.show(f"crop cut with {label}", both(faces.looks(faces.crops(matrices, filter))))
    crops = faces.crops(matrices)
    exposed = [np.clip(crop * (118 / crop.mean()), 0, 255).astype(np.uint8) for crop in crops]
    faces.show("exposure: mean brought to 118", both(faces.looks(exposed)))
    grey_world = [np.clip(c * (c.mean() / c.mean((0, 1))) * [1.08, 1.0, 0.92], 0, 255).astype(np.uint8) for c in crops]
    faces.show("white balance: skin-coloured mean", both(faces.looks(grey_world)))
    grey = [np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, 2) for crop in crops]
    faces.show("no colour", both(faces.looks(grey)))
    print("\nEstimated on half the people of the tuning half, measured on the others, mean of 12:\n")
    rows = both(chosen)
    faces.halves("nothing", lambda fit, keep: {"rows": rows[keep]})
    faces.halves("quarter of the centre taken away", lambda fit, keep: {"rows": cohort.unit(rows[keep] - rows[fit].mean(0) / 4)})
    faces.halves("centre taken away", lambda fit, keep: {"rows": cohort.unit(rows[keep] - rows[fit].mean(0))})
    faces.halves("centre taken away, whitened a little", lambda fit, keep: {"rows": whitened(rows, fit, keep, 3)})
    faces.halves("score normalised by a cohort", lambda fit, keep: {"distances": cohort_scores(rows, fit, keep)})


def dlib_landmarks(faces):
    """Returns the corners of the eyes and the nose, by the predictor that made the recogniser's training crops."""
    import dlib
    import face_recognition_models

    predict = dlib.shape_predictor(face_recognition_models.pose_predictor_five_point_model_location())
    # Box of dlib's HOG detector: the centre of the crop, without the predictor's padding.
    side, box = 500, dlib.rectangle(150, 150, 350, 350)
    found = []
    for picture, matrix in zip(faces.pictures, faces.matrices()):
        to_crop = matrix * 2
        to_crop[:, 2] += (side - 2 * SIDE) / 2
        points = predict(cv2.warpAffine(picture, to_crop, (side, side)), box).parts()
        points = np.array([(point.x, point.y) for point in points], float)
        found.append(np.linalg.solve(to_crop[:, :2], (points - to_crop[:, 2]).T).T)
    return found


def before_last_layer(faces, crops):
    """Returns the input of the network's last layer for each crop and its mirror image: pooled, not negative."""
    import onnx
    import onnxruntime

    model = onnx.load(str(FOLDER / RECOGNISER["float32"]))
    [pooled] = [node.output[0] for node in model.graph.node if node.op_type == "GlobalAveragePool"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, None))
    network = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    run = lambda crop: network.run([pooled], {"input": faces.pipeline.input([crop])})[0].reshape(-1)
    return np.array([run(crop) for crop in crops]), np.array([run(crop[:, ::-1]) for crop in crops])


def of_dlib(faces):
    crops = faces.crops(faces.matrices(larger(CHOSEN)))
    chosen = both(faces.looks(crops))
    faces.show("chosen, without the cohort", chosen)
    landmarks = dlib_landmarks(faces)
    for scale in (1.0, CHOSEN, 1.1):
        template = (DLIB_FIVE - MIDDLE) * scale + MIDDLE
        rows = both(faces.looks(faces.crops([reference.similarity(points, template) for points in landmarks])))
        faces.show(f"dlib's own five landmarks, × {scale}", rows)
        faces.show("the same and the chosen ones, averaged", cohort.unit(rows + chosen))
    pooled = before_last_layer(faces, crops)
    faces.show("the values before the last layer", both(pooled))
    faces.show("their square roots", cohort.unit(np.sqrt(pooled[0] + pooled[1])))
    faces.show("embedding and values, joined", np.concatenate([chosen, both(pooled)], 1))


def report(folder):
    tuning, other = Faces(folder, True), Faces(folder, False)

    def lengthened(rows, faces):
        if faces is other:
            return other.pipeline.lengthened(rows)
        # The pack's means were made from these faces, so each face is measured with means of other people.
        return reference.lengthened(rows, cohort.likeness_to_others(rows, faces.who), PACK["typical"], PACK["strength"])

    for label, scale, make in (
        ("plain port", 1.0, lambda looks, faces: looks[0]),
        ("without the cohort", CHOSEN, lambda looks, faces: both(looks)),
        ("chosen, models.flip = false", CHOSEN, lambda looks, faces: lengthened(cohort.unit(looks[0]), faces)),
        ("chosen, models.flip = true", CHOSEN, lambda looks, faces: lengthened(both(looks), faces)),
    ):
        threshold = None
        for half, faces in (("tuning half", tuning), ("report half", other)):
            rows = make(faces.looks(faces.crops(faces.matrices(larger(scale)))), faces)
            threshold = faces.show(f"{label}, {half}", rows, threshold=threshold, draws=200)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--report", action="store_true")
    arguments.add_argument("--looks", action="store_true")
    arguments.add_argument("--dlib", action="store_true")
    arguments.add_argument("--enrolled", type=pathlib.Path)
    arguments = arguments.parse_args()
    cv2.setNumThreads(1)
    if arguments.enrolled:
        sys.exit(enrolled(Faces(arguments.folder, True), Faces(arguments.enrolled, True)))
    print("| variant | accuracy | missed + false | threshold | TAR at FAR 1e-3 | TAR at FAR 1e-4 | at |")
    print("|---|---|---|---|---|---|---|")
    if arguments.report:
        report(arguments.folder)
    else:
        (of_dlib if arguments.dlib else more_looks if arguments.looks else variants)(Faces(arguments.folder, True))
