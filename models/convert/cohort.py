"""Means of many people's faces: by them a face's embedding gets the length that says how many resemble it.

Needs folders of labelled photographs, which are not part of this repository; the result, the pack's cohort.f32, is. Run
it again only when what comes before it changes (recogniser, template, mirror image).

    python3 cohort.py PACK_FOLDER COHORT.f32 PICTURES_FOLDER...

A folder holds a folder for each person, or pictures called <person>_<number>.jpg. Only people of the tuning half are used
(the sha256 of the name begins with 0 to 7) who are not in the other half of another folder under another spelling, of each
three pictures at most, and no mean of fewer than five people is kept: none is anybody's face. Also prints what likeness to
the nearest mean is typical of faces that did not shape it, for pack.toml.
"""

import hashlib
import pathlib
import sys

import numpy as np

import reference

COUNT, LEAST_PEOPLE, MOST_PICTURES, STARTS = 24, 5, 3, 20


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def is_tuning(name):
    return hashlib.sha256(name.encode()).hexdigest()[0] < "8"


def person(name):
    """The same for the spellings of different folders."""
    return name.removeprefix("lfw_").lower()


def named(folder):
    """(who, path) of every picture."""
    flat = any(folder.glob("*.jpg"))
    for path in sorted(folder.glob("*.jpg" if flat else "*/*")):
        if path.suffix in (".jpg", ".png"):
            yield path.stem.rsplit("_", 1)[0] if flat else path.parent.name, path


def gathered(rows, places):
    """Means of the rows nearest to each place, over and over (Lloyd's algorithm, cosine)."""
    for _ in range(30):
        nearest = np.argmax(rows @ places.T, 1)
        sums = [rows[nearest == at].sum(0) if (nearest == at).any() else place for at, place in enumerate(places)]
        places = unit(np.array(sums))
    return places


def means(rows, who, count=COUNT):
    """Of embeddings of unit length that lie together, of unit length themselves; of several starts the most alike."""
    starts = [rows[np.random.default_rng(seed).permutation(len(rows))[:count]] for seed in range(STARTS)]
    places = max((gathered(rows, start) for start in starts), key=lambda places: reference.likeness(rows, places).sum())
    nearest = np.argmax(rows @ places.T, 1)
    return places[[len(np.unique(who[nearest == at])) >= LEAST_PEOPLE for at in range(len(places))]]


def likeness_to_others(rows, who, folds=10):
    """To the means of other people only: each tenth of the people is left out once."""
    people = np.random.default_rng(0).permutation(np.unique(who))
    found = np.zeros(len(rows))
    for fold in range(folds):
        out = np.isin(who, people[fold::folds])
        found[out] = reference.likeness(rows[out], means(rows[~out], who[~out]))
    return found


def main(pack, target, *folders):
    pipeline = reference.Pipeline(pack)
    pictures = [(person(name), is_tuning(name), path) for folder in folders for name, path in named(folder)]
    reported = {name for name, tuning, _ in pictures if not tuning}
    rows, who, used = [], [], hashlib.sha256()
    for name, _, path in pictures:
        picture = reference.read_picture(path) if name not in reported and who.count(name) < MOST_PICTURES else None
        chip = None if picture is None else pipeline.main_chip(picture)
        if chip is not None:
            rows.append(unit(pipeline.embed([chip]))[0])
            who.append(name)
            used.update(hashlib.sha256(path.read_bytes()).digest())
    rows, who = np.array(rows), np.array(who)
    places = means(rows, who)
    target.write_bytes(places.astype("<f4").tobytes())
    print(f"{len(places)} means of {len(rows)} pictures (sha256 of their sums {used.hexdigest()[:16]}) of "
          f"{len(np.unique(who))} people; typical likeness {np.median(likeness_to_others(rows, who)):.4f}")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
