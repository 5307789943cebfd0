"""Derives the matching rules of the pack sface: distances of strangers, several pictures of a person, several looks at a
face, the margin, and the linking of strangers. Prints the tables of identification.md; `kithd eval` measures rates by number enrolled.

    python models/benches/identification.py <faces folder> [<file to keep the embeddings in>]

Needs numpy, OpenCV and onnxruntime. Uses the float32 recogniser without mirror images, on the tuning halves of lfw-dev
and of labelled with singles (people whose name's sha256 begins with 0 to 7). The report halves are not used.
"""

import hashlib
import pathlib
import re
import sys
from statistics import NormalDist

import numpy as np

MODELS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(MODELS / "convert"))
import reference  # noqa: E402

NORMAL = NormalDist()


def person_of(path):
    named = re.fullmatch(r"(.+)_\d+", path.stem)
    return named[1] if named else path.parent.name if path.stem.isdigit() else path.stem


def embeddings(folder, keep):
    """Returns person, set and embedding of each face of the tuning halves."""
    if keep and keep.exists():
        with np.load(keep) as kept:
            return kept["who"], kept["lfw"], kept["rows"]
    pipeline, who, lfw, rows = reference.Pipeline(MODELS / "packs/sface", flip=False), [], [], []
    for path in sorted([*folder.glob("lfw-dev/*.jpg"), *folder.glob("labelled/*/*"), *folder.glob("singles/*")]):
        name = person_of(path)
        if hashlib.sha256(name.encode()).digest()[0] >= 0x80:
            continue
        picture = reference.read_picture(path)
        crop = None if picture is None else pipeline.main_crop(picture)
        if crop is not None:
            who.append(name.removeprefix("lfw_").lower())
            lfw.append(path.parent.name == "lfw-dev")
            rows.append(pipeline.embed([crop])[0])
    who, lfw, rows = np.array(who), np.array(lfw), np.array(rows)
    if keep:
        np.savez(keep, who=who, lfw=lfw, rows=rows)
    return who, lfw, rows


def pairs(who, rows):
    """Returns the cosines of the pairs of one person, and, in descending order, of two people."""
    upper = np.triu_indices(len(who), 1)
    cosines, same = (rows @ rows.T)[upper], who[upper[0]] == who[upper[1]]
    return cosines[same], np.sort(cosines[~same])[::-1]


def fit(strangers):
    """Fits a normal distribution to the tail of these cosines from 1 in 100 to 2 in 100 000: mean and deviation."""
    rates = np.geomspace(1e-2, 2e-5, 20)
    at = strangers[(rates * len(strangers)).astype(int)]
    deviation, mean = np.polyfit([-NORMAL.inv_cdf(rate) for rate in rates], at, 1)
    return mean, deviation


def templates(pictures, by, alike):
    """Returns a person's templates; `mean` averages similar pictures, as models/src/gallery.rs does."""
    if by == "nearest":
        return pictures
    sums = []
    for picture in pictures:
        likeness = [picture @ total / np.linalg.norm(total) for total in sums]
        if likeness and max(likeness) > alike:
            sums[int(np.argmax(likeness))] += picture
        else:
            sums.append(picture.copy())
    means = np.array([total / np.linalg.norm(total) for total in sums])
    return np.concatenate([means, pictures]) if by == "both" else means


def several_looks(who, rows, lfw, count, together):
    """Returns, for everybody with `count` pictures, the mean of `together` of them: the cosines to single pictures of other
    people of lfw-dev, in descending order, and the mean's length."""
    random, means, names = np.random.default_rng(0), [], []
    for name in np.unique(who):
        theirs = np.flatnonzero(who == name)
        if len(theirs) >= count:
            looks = random.permutation(theirs)[:count]
            for first in range(0, count - together + 1, together):
                means.append(rows[looks[first:first + together]].mean(0))
                names.append(name)
    lengths = np.linalg.norm(means, axis=1)
    cosines = means / lengths[:, None] @ rows[lfw].T
    return np.sort(cosines[np.array(names)[:, None] != who[lfw][None]])[::-1], lengths.mean()


def searches(who, rows, pictures, by, alike, people=10_000, single=0, draws=10):
    """Yields for each draw: the best two cosines of each probe, whether its person is enrolled, and whether it is
    found."""
    names, counts = np.unique(who, return_counts=True)
    for draw in range(draws):
        random = np.random.default_rng(draw)
        enrolled = list(random.permutation(names[counts > pictures])[:people])
        enrolled += list(random.permutation(names[counts == 1])[:single])
        asked, own, gallery = np.ones(len(who), bool), [], []
        for name in enrolled:
            theirs = random.permutation(np.flatnonzero(who == name))[:pictures]
            asked[theirs] = False
            gallery.append(templates(rows[theirs], by, alike))
            own += [name] * len(gallery[-1])
        cosines = rows[asked] @ np.concatenate(gallery).T
        first = np.array(own)[cosines.argmax(1)]
        others = np.where(np.array(own)[None] == first[:, None], -1, cosines).max(1)
        yield cosines.max(1), others, np.isin(who[asked], enrolled), first == who[asked]


def linked(who, rows, one, many, alike, seed):
    """Returns the share of one person's pairs in one group, the pairs of two people in one, and the groups of two
    people."""
    sums, weights, groups = {}, {}, -np.ones(len(who), int)
    limits = [np.sqrt(2 * distance) for distance in (one, one * many ** 2, one * alike ** 2)]
    for face in np.random.default_rng(seed).permutation(len(who)):
        keys = list(sums)
        means = np.array([sums[key] / weights[key] for key in keys]).reshape(-1, rows.shape[1])
        apart = ((means - rows[face]) ** 2).sum(1)
        at = int(apart.argmin()) if keys else None
        if at is None or apart[at] >= limits[1] ** 2 + (limits[0] ** 2 - limits[1] ** 2) / weights[keys[at]]:
            sums[face], weights[face], groups[face] = rows[face].copy(), 1, face
            continue
        key = keys[at]
        sums[key] += rows[face]
        weights[key] += 1
        groups[face] = key
        apart = ((means - sums[key] / weights[key]) ** 2).sum(1)
        apart[at] = np.inf
        if apart.min() < limits[2] ** 2:
            other = keys[int(apart.argmin())]
            groups[groups == other] = key
            sums[key] += sums.pop(other)
            weights[key] += weights.pop(other)
    upper = np.triu_indices(len(who), 1)
    together, same = groups[upper[0]] == groups[upper[1]], who[upper[0]] == who[upper[1]]
    mixed = sum(len(set(who[groups == group])) > 1 for group in set(groups))
    return 100 * together[same].mean(), (together & ~same).sum(), mixed


def main():
    folder, keep = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    who, lfw, rows = embeddings(folder, keep)
    genuine, strangers = pairs(who[lfw], rows[lfw])
    mean, deviation = fit(strangers)
    print(f"lfw-dev: {lfw.sum()} faces, {len(genuine)} pairs of one person, {len(strangers)} of two")
    print(f"mean {mean:.4f}, standard deviation {deviation:.4f} of the strangers' cosines, by the nearest 1 %")
    for rate in (10.0 ** -power for power in range(2, 9)):
        count = int(rate * len(strangers))
        measured = f"{strangers[count]:.3f}, TAR {100 * (genuine > strangers[count]).mean():.2f} %" if count > 2 else ""
        print(f"  {rate:.0e}: distance {1 - mean - deviation * -NORMAL.inv_cdf(rate):.3f}; measured cosine {measured}")

    print("\npictures, compared by: FNIR at FPIR 10, 3, 1, 0.3 %; everybody enrolled who has one more picture")
    for pictures in (1, 2, 3):
        for by in ("nearest", "mean", "both") if pictures > 1 else ("nearest",):
            found = [np.concatenate(part) for part in zip(*searches(who, rows, pictures, by, 0.38))]
            best, _, inside, right = found
            at = np.sort(best[~inside])[::-1]
            rates = [100 * (~(right & (best > at[int(rate * len(at))])))[inside].mean() for rate in (0.1, 0.03, 0.01, 0.003)]
            print(f"  {pictures} {by:8}", " ".join(f"{rate:.2f}" for rate in rates), f"of {inside.sum() // 10}")

    print("\nlooks at one face averaged (photographs of one person): strangers' cosine, mean and deviation; at 1e-2, 1e-3")
    for count in (2, 3, 4):
        for together in range(1, count + 1):
            cosines, length = several_looks(who, rows, lfw, count, together)
            at = [cosines[int(rate * len(cosines))] for rate in (1e-2, 1e-3)]
            print(f"  {count} pictures, {together} as one: length {length:.3f}; {cosines.mean():.4f} {cosines.std():.4f};",
                  " ".join(f"{cosine:.3f}" for cosine in at))

    best, second, inside, right = (np.concatenate(part) for part in
                                   zip(*searches(who, rows, 1, "nearest", 0.38, people=200, single=100, draws=40)))
    known = best > mean + deviation * -NORMAL.inv_cdf(0.004 / 300)
    print("\nmargin with 300 enrolled: strangers known, people known, known by a wrong name, %")
    for margin in (0, 0.02, 0.03, 0.05, 0.08, 0.12):
        clear = known & (best - second >= margin)
        shares = [clear[~inside].mean(), (clear & right)[inside].mean(), (clear & ~right)[inside].mean()]
        print(f"  {margin:.2f}", " ".join(f"{100 * share:.2f}" for share in shares))

    print("\nlinking: pairs of one person in one group %, pairs of two people in one, mixed groups; lfw-dev, labelled")
    for one in (0.6, 0.57, 0.54, 0.52, 0.5):
        results = [np.mean([linked(who[part], rows[part], one, 0.84, 0.7, seed) for seed in range(3)], 0)
                   for part in (lfw, ~lfw)]
        print(f"  {one:.2f}", "; ".join("{:.1f} {:.1f} {:.1f}".format(*result) for result in results))


if __name__ == "__main__":
    main()
