"""Makes a pack's cohort: mean faces of many people, by which an embedding gets a length that grows with the number of
people it resembles.

Needs folders of labelled photographs, which are not part of this repository. The result, the pack's cohort.f32, is
committed. Run it again only when an earlier step changes (recogniser, template, mirror image).

    python3 cohort.py PACK_FOLDER COHORT.f32 PICTURES_FOLDER...

A folder holds a folder for each person, or pictures called <person>_<number>.jpg. Uses people of the tuning half only
(the sha256 of the name begins with 0 to 7), unless another spelling of the name is in another folder's other half, and
at most three pictures of each. Drops means of fewer than five people, so that no mean is the face of a person. Also
prints, for pack.toml, the typical likeness to the nearest mean of faces that are not part of it.
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
    """Returns the name in a spelling common to all folders."""
    return name.removeprefix("lfw_").lower()


def named(folder):
    """Yields (name, path) of every picture."""
    flat = any(folder.glob("*.jpg"))
    for path in sorted(folder.glob("*.jpg" if flat else "*/*")):
        if path.suffix in (".jpg", ".png"):
            yield path.stem.rsplit("_", 1)[0] if flat else path.parent.name, path


def gathered(rows, places):
    """Moves each place to the mean of the rows nearest to it, 30 times (Lloyd's algorithm, cosine)."""
    for _ in range(30):
        nearest = np.argmax(rows @ places.T, 1)
        sums = [rows[nearest == at].sum(0) if (nearest == at).any() else place for at, place in enumerate(places)]
        places = unit(np.array(sums))
    return places


def means(rows, who, count=COUNT):
    """Returns the means of clusters of embeddings, all of unit length. Keeps the best of several starts."""
    starts = [rows[np.random.default_rng(seed).permutation(len(rows))[:count]] for seed in range(STARTS)]
    places = max((gathered(rows, start) for start in starts), key=lambda places: reference.likeness(rows, places).sum())
    nearest = np.argmax(rows @ places.T, 1)
    return places[[len(np.unique(who[nearest == at])) >= LEAST_PEOPLE for at in range(len(places))]]


def likeness_to_others(rows, who, folds=10):
    """Returns the likeness to means of other people only, by leaving out each tenth of the people once."""
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
        crop = None if picture is None else pipeline.main_crop(picture)
        if crop is not None:
            rows.append(unit(pipeline.embed([crop]))[0])
            who.append(name)
            used.update(hashlib.sha256(path.read_bytes()).digest())
    rows, who = np.array(rows), np.array(who)
    places = means(rows, who)
    target.write_bytes(places.astype("<f4").tobytes())
    print(f"{len(places)} means of {len(rows)} pictures (sha256 of their sums {used.hexdigest()[:16]}) of "
          f"{len(np.unique(who))} people; typical likeness {np.median(likeness_to_others(rows, who)):.4f}")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
