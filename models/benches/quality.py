"""What the quality of a face is worth, on pictures spoilt on purpose: needs numpy and opencv-python-headless.

    python3 quality.py spoil lfw-dev FOLDER tuning|report    writes spoilt pictures and pairs.csv into FOLDER
    kithd eval --pairs FOLDER/pairs.csv                      error against rejection, by the quality and each part of it
    analyse PACK float32 20 FOLDER/*.jpg | python3 quality.py table FOLDER/pairs.csv
                                                             the tables of quality.md, with the score before this one

`analyse` is the example of kith-vision. Of each pair of one person in lfw-dev one picture is spoilt in 25 ways; the other
stays whole. `spoil` is free of chance but for the noise in dark pictures, which is seeded.
"""

import csv
import hashlib
import json
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np

PACK = Path(__file__).resolve().parent.parent / "packs" / "dlib-mtcnn" / "pack.toml"
MATCHING = tomllib.loads(PACK.read_text())["matching"]
THRESHOLD = MATCHING["threshold"]
KNOWN = THRESHOLD - MATCHING["band_below"]
SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)


def in_half(person, half):
    return (hashlib.sha256(person.encode()).hexdigest()[0] < "8") == (half == "tuning")


def spoilt(picture, noise):
    """Name and picture of each way; an LFW face spans about 70 to 180 of the 250 pixels."""
    yield "whole_0", picture
    for light in (0.3, 0.15, 0.08, 0.05, 0.03):
        dark = picture * light + noise.normal(0, 1, picture.shape)
        yield f"dark_{light}", np.rint(np.clip(dark, 0, 255)).astype(np.uint8)
    for sigma in (2, 3, 4, 5):
        yield f"blur_{sigma}", cv2.GaussianBlur(picture, (0, 0), sigma)
    for side in (55, 75, 100, 140):
        yield f"small_{side}", cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    for gone in (60, 85, 105, 120):
        yield f"cutleft_{gone}", picture[:, gone:]
        yield f"cutbottom_{gone}", picture[: 250 - gone]
        yield f"cuttop_{gone}", picture[gone:]


def spoil(lfw, folder, half):
    lfw, folder = Path(lfw), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1)
    person = lambda path: path.rsplit("_", 1)[0]
    with open(lfw / "pairs.csv", newline="") as file:
        pairs = [row for row in csv.DictReader(file) if row["same"] == "1" and in_half(person(row["path_a"]), half)]
    rows = []
    for at, pair in enumerate(pairs):
        # Compared with the person's other picture, and with that of the next pair's person.
        other = next(p for p in pairs[at + 1:] + pairs if person(p["path_a"]) != person(pair["path_a"]))
        for path in (pair["path_b"], other["path_b"]):
            if not (folder / path).exists():
                (folder / path).write_bytes((lfw / path).read_bytes())
        for name, picture in spoilt(cv2.imread(str(lfw / pair["path_a"])), noise):
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


def former(face):
    """The score before: detector, size up to 112 pixels, sharpness up to 0.1, turn."""
    frontal = max(0, 1 - abs(face["yaw"])) * max(0, 1 - abs(face["pitch"]))
    return face["score"] * min(1, face["size_px"] / 112) * min(1, face["sharpness"] / 0.1) * frontal


def subject(picture):
    """The face nearest the middle; what is left of a cut picture has its middle elsewhere, and often one face."""
    faces = picture["faces"]
    width, height = picture["size"]
    off = lambda box: np.hypot((box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2)
    return min(faces, key=lambda face: off(face["bounds"])) if faces else None


def table(pairs):
    faces = {Path(picture["path"]).name: subject(picture) for picture in map(json.loads, sys.stdin)}
    people = {}
    with open(pairs, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        people[row["path_a"]], people[row["path_b"]] = row["person_a"], row["person_b"]
    rows = [(row["path_a"], row["path_b"]) for row in rows if row["same"] == "1"]
    whole = [(people[name], face["embedding"]) for name, face in faces.items()
             if name in people and "__" not in name and face]
    strangers, names = np.array([e for _, e in whole]), np.array([n for n, _ in whole])
    probes = []
    ways = {}
    for spoilt_name, other in rows:
        way = spoilt_name[:-4].split("__")[1]
        ways.setdefault(way, []).append(None)
        one, two = faces[spoilt_name], faces[other]
        if one and two:
            embedding = np.array(one["embedding"])
            distance = np.linalg.norm(embedding - two["embedding"])
            nearest = np.linalg.norm(strangers - embedding, axis=1)[names != people[spoilt_name]].min()
            probes.append((one, distance, nearest))
            ways[way][-1] = probes[-1]
    print(f"{'way':<14}{'found':>7}{'missed':>8}{'not known':>11}   medians: size, cut, brightness, sharpness, quality")
    for way, tried in ways.items():
        found = [probe for probe in tried if probe]
        if not found:
            print(f"{way:<14}{0:>7}")
            continue
        distances = np.array([distance for _, distance, _ in found])
        medians = [np.median([face[key] for face, _, _ in found])
                   for key in ("size_px", "cut", "brightness", "sharpness", "quality")]
        print(f"{way:<14}{100 * len(found) / len(tried):>6.0f}%{100 * np.mean(distances >= THRESHOLD):>7.1f}%"
              f"{100 * np.mean(distances >= KNOWN):>10.1f}%   "
              + "{:.0f} {:.2f} {:.0f} {:.3f} {:.2f}".format(*medians))
    distances = np.array([distance for _, distance, _ in probes])
    nearest = np.array([distance for _, _, distance in probes])
    scores = {"now": [face["quality"] for face, _, _ in probes], "before": [former(face) for face, _, _ in probes]}
    for which, score in scores.items():
        score = np.array(score)
        print(f"\nscore {which}: {len(score)} spoilt faces; a stranger is known: one of {len(set(names))} people is that near")
        print("  score       faces  missed  not known  stranger known")
        for low in np.arange(0, 1, 0.1):
            among = (score >= low) & (score < low + 0.1 + 1e-6 * (low > 0.85))
            if among.any():
                print(f"  {low:.1f} to {low + 0.1:.1f}{among.sum():>8}{100 * np.mean(distances[among] >= THRESHOLD):>7.1f}%"
                      f"{100 * np.mean(distances[among] >= KNOWN):>10.1f}%{100 * np.mean(nearest[among] < KNOWN):>15.1f}%")
        worst_first = np.argsort(score, kind="stable")
        left = [distances[worst_first[int(share * len(score)):]] for share in SHARES]
        print("  without the worst " + " ".join(f"{100 * share:5.0f}%" for share in SHARES))
        print("  missed            " + " ".join(f"{100 * np.mean(d >= THRESHOLD):5.1f}%" for d in left))
        print("  not known         " + " ".join(f"{100 * np.mean(d >= KNOWN):5.1f}%" for d in left))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["spoil", lfw, folder, ("tuning" | "report") as half]:
            spoil(lfw, folder, half)
        case ["table", pairs]:
            table(pairs)
        case _:
            sys.exit(__doc__)
