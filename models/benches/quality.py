"""Measures how well the quality of a face predicts recognition, on pictures degraded on purpose. Needs numpy and
opencv-python-headless; `spoil` also needs ../convert/requirements.txt.

    python3 quality.py spoil lfw-dev FOLDER tuning|report    writes degraded pictures and pairs.csv into FOLDER
    analyse ../packs/sface int8 20 FOLDER/*.jpg > FACES      `analyse` is the example of kith-vision
    python3 quality.py table FOLDER/pairs.csv FACES [SVG]    the tables of quality.md; errors against discard as a picture
    python3 quality.py curve FOLDER/pairs.csv FACES          quality.known_again of pack.toml
    python3 quality.py harder FOLDER FOLDER2                 spoils the whole pictures in FOLDER in 17 further ways
    python3 quality.py reasons FACES...                      what is given as the reason where a face is refused
    kithd eval --pairs FOLDER/pairs.csv                      error against rejection, by the quality and each part of it

In each pair of one person in lfw-dev one picture is degraded in 24 ways; the other stays as it is. A face is known
again if the two embeddings have a cosine of KNOWN. `spoil` is deterministic; the noise in dark pictures has a fixed
seed.
"""

import csv
import hashlib
import json
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np

PACK = Path(__file__).resolve().parent.parent / "packs" / "sface"
# Limit of the balanced level with 300 enrolled people (accuracy.md).
KNOWN = 0.45
SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)


def in_half(person, half):
    return (hashlib.sha256(person.encode()).hexdigest()[0] < "8") == (half == "tuning")


def person(path):
    return path.rsplit("_", 1)[0]


def masked(picture, landmarks):
    """Adds a mask from the nose to below the chin."""
    left, right, nose, mouth_left, mouth_right = landmarks
    across, down = right - left, (mouth_left + mouth_right - left - right) / 2
    outline = (left + 0.45 * down - 0.35 * across, nose - 0.1 * down, right + 0.45 * down + 0.35 * across,
               mouth_right + 0.55 * down + 0.25 * across, (mouth_left + mouth_right) / 2 + 0.85 * down,
               mouth_left + 0.55 * down - 0.25 * across)
    picture = picture.copy()
    cv2.fillPoly(picture, [np.array(outline, np.int32)], (215, 190, 150), cv2.LINE_AA)
    return picture


def shaded(picture, landmarks):
    """Adds sunglasses."""
    left, right = landmarks[:2]
    across = right - left
    eyes, angle = np.hypot(*across), np.degrees(np.arctan2(across[1], across[0]))
    picture = picture.copy()
    for eye in (left, right):
        axes = int(0.36 * eyes), int(0.27 * eyes)
        cv2.ellipse(picture, eye.astype(int).tolist(), axes, angle, 0, 360, (25, 20, 20), -1, cv2.LINE_AA)
    ends = [(end.astype(int).tolist()) for end in (left - 0.5 * across, right + 0.5 * across)]
    cv2.line(picture, *ends, (25, 20, 20), max(1, int(0.08 * eyes)), cv2.LINE_AA)
    return picture


def spoilt(picture, landmarks, noise):
    """Yields name and picture of each way; an LFW face spans about 70 to 180 of the 250 pixels."""
    yield "whole_0", picture
    for light in (0.15, 0.08):
        dark = picture * light + noise.normal(0, 1, picture.shape)
        yield f"dark_{light}", np.rint(np.clip(dark, 0, 255)).astype(np.uint8)
    for sigma in (2, 3, 4, 5, 6):
        yield f"blur_{sigma}", cv2.GaussianBlur(picture, (0, 0), sigma)
    for side in (40, 55, 75, 100):
        yield f"small_{side}", cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    for gone in (85, 105, 120):
        yield f"cutleft_{gone}", picture[:, gone:]
        yield f"cutbottom_{gone}", picture[: 250 - gone]
        yield f"cuttop_{gone}", picture[gone:]
    if landmarks is not None:
        yield "mask_0", masked(picture, landmarks)
        yield "glasses_0", shaded(picture, landmarks)
        yield "both_0", shaded(masked(picture, landmarks), landmarks)


def moved(picture, pixels, angle):
    """As by a moving camera."""
    kernel = np.zeros((pixels, pixels), np.float32)
    kernel[pixels // 2] = 1
    middle = (pixels - 1) / 2
    kernel = cv2.warpAffine(kernel, cv2.getRotationMatrix2D((middle, middle), angle, 1), (pixels, pixels))
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def harder(source, folder):
    """Moved, blurred and noisy, enlarged, blurred and small, dark and noisy, and strongly compressed."""
    source, folder, random = Path(source), Path(folder), np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)

    def noisy(picture, deviation):
        return np.clip(np.rint(picture + random.normal(0, deviation, picture.shape)), 0, 255).astype(np.uint8)

    for path in sorted(source.glob("*__whole_0.jpg")):
        whole = cv2.imread(str(path))
        ways = {f"blur_m{pixels}": moved(whole, pixels, random.uniform(0, 180)) for pixels in (15, 21, 27)}
        for sigma in (3, 4, 5):
            blurred = cv2.GaussianBlur(whole, (0, 0), sigma)
            ways |= {f"blur_{sigma}n{deviation}": noisy(blurred, deviation) for deviation in (3, 6)}
        for side in (30, 40):
            small = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
            ways[f"blur_up{side}"] = cv2.resize(small, (250, 250), interpolation=cv2.INTER_CUBIC)
        ways["blur_s3"] = cv2.resize(cv2.GaussianBlur(whole, (0, 0), 5), (125, 125), interpolation=cv2.INTER_AREA)
        large = cv2.resize(whole, (1000, 1000), interpolation=cv2.INTER_CUBIC)
        ways["blur_big18"] = noisy(cv2.GaussianBlur(large, (0, 0), 18), 3)
        ways |= {f"dark_n{light}": noisy(whole * light, 3) for light in (0.1, 0.06)}
        ways["dark_blur"] = noisy(cv2.GaussianBlur(whole, (0, 0), 3) * 0.12, 1.5)
        name = path.name.removesuffix("__whole_0.jpg")
        for way, picture in ways.items():
            cv2.imwrite(str(folder / f"{name}__{way}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        for quality in (8, 4):
            cv2.imwrite(str(folder / f"{name}__jpeg_{quality}.jpg"), whole, [cv2.IMWRITE_JPEG_QUALITY, quality])


def reason(face, limits, clear=1.4):
    """Of a refused face, as in ../src/quality.rs."""
    sharp, light = limits["min_sharpness"], limits["min_brightness"]
    if face["size_px"] < limits["min_size_px"]:
        return "small"
    if face["cut"] > limits["max_cut"]:
        return "cut"
    if face["brightness"] < light:
        return "dark"
    if face["sharpness"] < sharp:
        return "blurred"
    if abs(face["yaw"]) > limits["max_yaw"]:
        return "turned"
    plain = (face["size_px"] >= clear * limits["min_size_px"] and clear * face["cut"] <= limits["max_cut"]
             and face["brightness"] >= clear * light and face["sharpness"] >= clear * sharp
             and clear * abs(face["yaw"]) <= limits["max_yaw"])
    return "covered" if plain else "none"


def reasons(files):
    limits = tomllib.loads((PACK / "pack.toml").read_text())["quality"]
    counts = {}
    for picture in (json.loads(line) for file in files for line in open(file)):
        face = subject(picture) if "__" in picture["path"] and picture.get("faces") else None
        if face and np.interp(face["length"], *limits["known_again"].values()) < limits["known_from"]:
            way = picture["path"].rsplit("__")[1].split("_")[0]
            given = counts.setdefault(way, {})
            given[reason(face, limits)] = given.get(reason(face, limits), 0) + 1
    columns = ("small", "cut", "dark", "blurred", "turned", "covered", "none")
    print(f"{'spoilt by':<12}" + "".join(f"{column:>9}" for column in columns))
    for way, given in sorted(counts.items()):
        print(f"{way:<12}" + "".join(f"{given.get(column, 0):>9}" for column in columns))


def spoil(lfw, folder, half):
    sys.path.insert(0, str(PACK.parent.parent / "convert"))
    import reference

    detector = reference.Mtcnn(PACK, tomllib.loads((PACK / "pack.toml").read_text())["detector"])

    def landmarks(picture):
        boxes, points = detector.detect(picture[..., ::-1])
        off = np.hypot(boxes[:, 0] + boxes[:, 2] - 250, boxes[:, 1] + boxes[:, 3] - 250)
        return points[off.argmin()] if len(boxes) else None

    lfw, folder = Path(lfw), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1)
    with open(lfw / "pairs.csv", newline="") as file:
        pairs = [row for row in csv.DictReader(file) if row["same"] == "1" and in_half(person(row["path_a"]), half)]
    rows = []
    for at, pair in enumerate(pairs):
        # Pairs: the person's other picture, and a picture of the next pair's person.
        other = next(p for p in pairs[at + 1:] + pairs if person(p["path_a"]) != person(pair["path_a"]))
        for path in (pair["path_b"], other["path_b"]):
            if not (folder / path).exists():
                (folder / path).write_bytes((lfw / path).read_bytes())
        picture = cv2.imread(str(lfw / pair["path_a"]))
        for name, picture in spoilt(picture, landmarks(picture), noise):
            file = f"{Path(pair['path_a']).stem}__{name}.jpg"
            cv2.imwrite(str(folder / file), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
            one, two = person(pair["path_a"]), person(other["path_b"])
            rows.append((file, pair["path_b"], 1, one, one))
            rows.append((file, other["path_b"], 0, one, two))
    with open(folder / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path_a", "path_b", "same", "person_a", "person_b"))
        writer.writerows(rows)
    print(f"{len(pairs)} pairs, {len(rows) // 2} pictures made of them")


def subject(picture):
    """Returns the face nearest the middle. A cut picture has its middle elsewhere, but usually one face."""
    faces = picture["faces"]
    width, height = picture["size"]
    off = lambda box: np.hypot((box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2)
    return min(faces, key=lambda face: off(face["bounds"])) if faces else None


def probes(pairs, faces):
    """Yields (way, face, likeness to the person's other picture) of each degraded picture, (way, None, None) without a
    face."""
    with open(faces) as lines:
        found = {Path(picture["path"]).name: subject(picture) for picture in map(json.loads, lines)}
    with open(pairs, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["same"] == "1"]
    for row in rows:
        one, two = found[row["path_a"]], found[row["path_b"]]
        way = row["path_a"][:-4].split("__")[1]
        if one and two:
            yield way, one, cosine(one["embedding"], two["embedding"])
        elif two:
            yield way, None, None


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def by_parts(face):
    """Returns the score of packs without a curve, as in ../src/quality.rs."""
    half = lambda much: 1 / (1 + much)
    return (min(face["score"], 1) * half((17 / max(face["size_px"], 1)) ** 4) * half((face["cut"] / 0.4) ** 2)
            * half((7 / max(face["brightness"], 0.1)) ** 2) * half((0.0075 / max(face["sharpness"], 1e-5)) ** 2)
            * half(face["yaw"] ** 2) * half((face["pitch"] / 0.5) ** 2))


MEASURES = {"length": lambda face: face["length"], "product of the parts": by_parts,
            "sharpness": lambda face: face["sharpness"], "size": lambda face: face["size_px"],
            "light": lambda face: face["brightness"], "uncut": lambda face: -face["cut"],
            "detector": lambda face: face["score"], "turn": lambda face: -abs(face["yaw"])}


def area_under_curve(values, missed):
    """Returns the probability that a missed face has a lower value than a known one."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    count = missed.sum()
    return 1 - (ranks[missed].sum() - count * (count - 1) / 2) / (count * (~missed).sum())


def rising(values, known, edges):
    """Returns mean value and known share of the faces between edges, with neighbours merged until the shares rise."""
    groups = []
    for low, high in zip(edges, edges[1:]):
        among = (values >= low) & (values < high)
        if among.any():
            groups.append([values[among].sum(), known[among].sum(), among.sum()])
        while len(groups) > 1 and groups[-2][1] / groups[-2][2] >= groups[-1][1] / groups[-1][2]:
            last = groups.pop()
            groups[-1] = [a + b for a, b in zip(groups[-1], last)]
    return [(total / count, share / count, count) for total, share, count in groups]


def curve(pairs, faces):
    tried = [probe for probe in probes(pairs, faces) if probe[1]]
    lengths = np.array([face["length"] for _, face, _ in tried])
    known = np.array([likeness >= KNOWN for *_, likeness in tried])
    points = rising(lengths, known, np.quantile(lengths, np.linspace(0, 1, 21)) + np.arange(21) // 20 * 1e-6)
    print(f"lengths = [{', '.join(f'{at:.2f}' for at, *_ in points)}]")
    print(f"shares = [{', '.join(f'{share:.3f}' for _, share, _ in points)}]")


def table(pairs, faces, svg=None):
    tried = list(probes(pairs, faces))
    limits = tomllib.loads((PACK / "pack.toml").read_text())["quality"]
    known_from, known_again = limits["known_from"], limits["known_again"]
    print(f"{'way':<14}{'found':>7}{'not known':>11}{'refused':>9}   medians: length, quality, size, cut, brightness, sharpness")
    for way in dict.fromkeys(way for way, *_ in tried):
        of = [(face, likeness) for name, face, likeness in tried if name == way]
        found = [probe for probe in of if probe[0]]
        if not found:
            print(f"{way:<14}{0:>7}")
            continue
        share = lambda condition: 100 * np.mean([condition(*probe) for probe in found])
        medians = [np.median([face[key] for face, _ in found])
                   for key in ("length", "quality", "size_px", "cut", "brightness", "sharpness")]
        print(f"{way:<14}{100 * len(found) / len(of):>6.0f}%{share(lambda _, like: like < KNOWN):>10.1f}%"
              f"{share(lambda face, _: face['quality'] < known_from):>8.1f}%   "
              + "{:.1f} {:.2f} {:.0f} {:.2f} {:.0f} {:.3f}".format(*medians))
    faces = [face for _, face, _ in tried if face]
    missed = np.array([likeness < KNOWN for _, face, likeness in tried if face])
    quality = np.interp([face["length"] for face in faces], known_again["lengths"], known_again["shares"])
    print(f"\n{len(faces)} faces; quality is the share known again, by {len(known_again['lengths'])} points of the pack")
    print("  quality       faces   known again")
    for low in np.arange(0, 1, 0.1):
        among = (quality >= low) & (quality < low + 0.1 + 1e-6 * (low > 0.85))
        if among.any():
            print(f"  {low:.1f} to {low + 0.1:.1f}{among.sum():>8}{100 * np.mean(~missed[among]):>12.1f}%")
    refused = quality < known_from
    print(f"\nbelow {known_from}, which is refused at enrolment: {100 * refused.mean():.1f} %, of which "
          f"{100 * missed[refused].mean():.1f} % are not known again; of the others {100 * missed[~refused].mean():.1f} %")
    discards = {}
    print("\nnot known again without the worst " + "".join(f"{100 * share:6.0f}%" for share in SHARES) + "   area under the curve")
    for name, measure in MEASURES.items():
        values = np.array([measure(face) for face in faces])
        order = np.argsort(values, kind="stable")
        discards[name] = [missed[order[int(share * len(order)):]].mean() for share in np.linspace(0, 0.5, 51)]
        left = [missed[order[int(share * len(order)):]].mean() for share in SHARES]
        print(f"  {name:<32}" + "".join(f"{100 * share:6.1f}%" for share in left)
              + f"{area_under_curve(values, missed):>12.2f}")
    if svg:
        Path(svg).write_text(drawn(discards))


def drawn(discards):
    """Returns errors against discard, in per cent, as SVG."""
    highest = max(map(max, discards.values()))
    colours = ("#0b7285", "#c92a2a", "#e67700", "#2b8a3e", "#862e9c", "#5c940d", "#495057", "#a61e4d")
    lines = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" font-family="sans-serif" font-size="12">',
             '<rect width="640" height="360" fill="#fff"/>',
             '<path d="M50 20V320H470" fill="none" stroke="#333"/>']
    for share in range(0, 51, 10):
        lines.append(f'<text x="{50 + 8.4 * share:.0f}" y="336" text-anchor="middle">{share} %</text>')
    for level in np.linspace(0, highest, 5):
        lines.append(f'<text x="46" y="{324 - 300 * level / highest:.0f}" text-anchor="end">{100 * level:.0f} %</text>')
    lines.append('<text x="260" y="354" text-anchor="middle">faces discarded, the worst first</text>')
    lines.append('<text x="56" y="14">of the others not known again</text>')
    ends = sorted((shares[-1], name) for name, shares in discards.items())
    room = 320.0
    for last, name in ends:
        colour = colours[list(discards).index(name)]
        points = " ".join(f"{50 + 4.2 * 2 * ix:.0f},{320 - 300 * share / highest:.1f}" for ix, share in enumerate(discards[name]))
        room = min(room - 14, 324 - 300 * last / highest)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="476" y="{room:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["spoil", lfw, folder, ("tuning" | "report") as half]:
            spoil(lfw, folder, half)
        case ["table", pairs, faces, *svg] if len(svg) < 2:
            table(pairs, faces, *svg)
        case ["curve", pairs, faces]:
            curve(pairs, faces)
        case ["harder", source, folder]:
            harder(source, folder)
        case ["reasons", *files] if files:
            reasons(files)
        case _:
            sys.exit(__doc__)
