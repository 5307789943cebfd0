"""Open-set identification by the library face_recognition (dlib), as `kithd eval --gallery` measures kithd.

    python library.py lfw-dev lfw-dev --enrolled 19,38,99,300
    python library.py gallery probes --strangers strangers

A folder given twice: of everybody with two pictures the first is enrolled, the others are asked about, and everybody else is a
stranger. Numbers of people are drawn ten times. Of each picture the face nearest its middle counts; a person's nearest picture
decides, and at the library's 0.6 whoever is nearer is known. Intervals: 95 % of 200 draws of the people asked about.
Needs what requirements.txt says of the library. `--keep FILE` keeps the embeddings, by the sha256 of the pictures.
"""

import argparse
import hashlib
import pathlib
import re

import numpy as np

import peers

RATES = (0.03, 0.01, 0.003)
DRAWS = 10


def person_of(path):
    named = re.fullmatch(r"(.+)_\d+", path.stem)
    return named[1] if named else path.parent.name


def pictures(folder):
    """Of everybody the pictures, by their names."""
    of = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png")):
        of.setdefault(person_of(path).lower(), []).append(path)
    return of


def embeddings(paths, kept):
    """One row a picture; NaN where no face is found."""
    library, rows = peers.FaceRecognition(), []
    for path in paths:
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest()
        if name not in kept:
            picture = library.decode(data)
            height, width = picture.shape[:2]
            faces = sorted(library.detect(picture), key=lambda face: np.hypot(
                face[0][0] + face[0][2] - width, face[0][1] + face[0][3] - height))
            kept[name] = library.embed(library.align(picture, faces[0])) if faces else np.full(128, np.nan)
        rows.append(kept[name])
    return np.array(rows)


def measure(gallery, probes, count, threshold):
    """Rows of figures with their intervals for so many people drawn from the gallery."""
    (owners, rows), (people, asked) = gallery, probes
    apart = np.sqrt(np.maximum((asked ** 2).sum(1)[:, None] + (rows ** 2).sum(1) - 2 * asked @ rows.T, 0))
    apart = np.where(np.isnan(apart), np.inf, apart)
    random, names, searches = np.random.default_rng(1), np.unique(owners), []
    for _ in range(DRAWS if count < len(names) else 1):
        drawn = random.permutation(names)[:count]
        columns = np.flatnonzero(np.isin(owners, drawn))
        nearest = columns[apart[:, columns].argmin(1)]
        searches.append((apart[np.arange(len(asked)), nearest], np.isin(people, drawn), owners[nearest] == people, people))
    best, enrolled, right, people = (np.concatenate(part) for part in zip(*searches))
    order, (names, person) = np.argsort(best), np.unique(people, return_inverse=True)

    def figures(weights):
        strangers, known = weights * ~enrolled, weights * enrolled
        passed = np.cumsum(strangers[order])
        for rate in RATES:
            at = best[order][np.searchsorted(passed, rate * passed[-1])]
            yield (known * ~(right & (best < at))).sum() / known.sum()
        yield (strangers * (best < threshold)).sum() / strangers.sum()
        yield (known * (right & (best < threshold))).sum() / known.sum()
        yield (known * (~right & (best < threshold))).sum() / known.sum()

    draws = [list(figures(np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))[person].astype(float)))
             for _ in range(200)]
    return zip(figures(np.ones(len(best))), *np.quantile(draws, [0.025, 0.975], axis=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", type=pathlib.Path)
    parser.add_argument("probes", type=pathlib.Path)
    parser.add_argument("--strangers", type=pathlib.Path)
    parser.add_argument("--enrolled", default="", help="numbers of people; all of them are enrolled as well")
    parser.add_argument("--keep", type=pathlib.Path, help="file to keep embeddings in, .npz")
    arguments = parser.parse_args()
    kept = dict(np.load(arguments.keep)) if arguments.keep and arguments.keep.exists() else {}
    gallery, probes = pictures(arguments.gallery), pictures(arguments.probes)
    if arguments.gallery.resolve() == arguments.probes.resolve():
        gallery = {person: paths[:1] for person, paths in gallery.items() if len(paths) > 1}
        probes = {person: paths[person in gallery:] for person, paths in probes.items()}
    for person, paths in (pictures(arguments.strangers) if arguments.strangers else {}).items():
        probes.setdefault(person, []).extend(paths)
    sets = []
    for of in (gallery, probes):
        pairs = [(person, path) for person, paths in of.items() for path in paths]
        sets.append((np.array([person for person, _ in pairs]), embeddings([path for _, path in pairs], kept)))
    if arguments.keep:
        np.savez(arguments.keep, **kept)
    found = ~np.isnan(sets[0][1][:, 0])
    sets[0] = sets[0][0][found], sets[0][1][found]
    everybody = len(np.unique(sets[0][0]))
    print(f"no face in {(~found).sum()} pictures of the gallery and {np.isnan(sets[1][1][:, 0]).sum()} asked about")
    print("| enrolled | " + " | ".join(f"FNIR at FPIR {100 * rate:g} %" for rate in RATES)
          + " | strangers known | people known | known by a wrong name |\n|---|" + "---|" * 6)
    for count in sorted({int(n) for n in arguments.enrolled.split(",") if n and int(n) < everybody} | {everybody}):
        cells = (f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
                 for value, low, high in measure(*sets, count, peers.FaceRecognition.threshold))
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
