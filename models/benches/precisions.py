"""Compares two runs of one pack over lfw-dev: how many pairs of one person are found at a share of strangers, and the
difference, paired. `kithd eval --against` does the same at 1 in 1 000 alone.

    analyse ../packs/sface int8 40 lfw-dev/*.jpg > INT8       `analyse` is the example of kith-vision
    analyse ../packs/sface float32 40 lfw-dev/*.jpg > FLOAT32
    python3 precisions.py INT8 FLOAT32 [tuning|report]

All pairs of pictures of the files count. Intervals: 95 % of 1 000 draws of the people, the same draws for both runs.
"""

import json
import sys
from pathlib import Path

import numpy as np

from quality import in_half, person, subject

RATES = (1e-3, 1e-4, 1e-5)
# More pairs of strangers than pass at any rate in any draw.
NEAREST = 20_000


class Run:
    def __init__(self, file, half):
        pictures = sorted(map(json.loads, open(file)), key=lambda picture: picture["path"])
        pictures = [(person(Path(picture["path"]).name), subject(picture)) for picture in pictures]
        pictures = [(name, face) for name, face in pictures if face and (half is None or in_half(name, half))]
        self.names, self.who = np.unique([name for name, _ in pictures], return_inverse=True)
        rows = np.array([face["embedding"] for _, face in pictures])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        one, two = np.triu_indices(len(rows), 1)
        cosines, same = (rows @ rows.T)[one, two], self.who[one] == self.who[two]
        self.same, self.of = cosines[same], self.who[one[same]]
        strangers, pairs = cosines[~same], np.stack([self.who[one[~same]], self.who[two[~same]]])
        nearest = np.argsort(-strangers)[:NEAREST]
        self.strangers, self.pairs = strangers[nearest], pairs[:, nearest]

    def found(self, weights):
        """Returns the share of pairs of one person that is found at each rate, people counting as often as drawn."""
        pictures = weights[self.who]
        of_one = np.bincount(self.who, minlength=len(weights)) * weights
        total = (pictures.sum() ** 2 - (of_one**2).sum()) / 2
        passed = np.cumsum(weights[self.pairs[0]] * weights[self.pairs[1]])
        lines = [self.strangers[np.searchsorted(passed, rate * total, side="right")] for rate in RATES]
        return np.array([np.average(self.same > line, weights=weights[self.of]) for line in lines])


def main(first, second, half=None):
    one, two = Run(first, half), Run(second, half)
    assert list(one.names) == list(two.names), "the runs are of different people"
    people, random = len(one.names), np.random.default_rng(1)
    draws = [np.bincount(random.integers(0, people, people), minlength=people) for _ in range(1000)]
    spread = np.array([[one.found(draw), two.found(draw)] for draw in draws])
    everybody = np.ones(people, int)
    shares = one.found(everybody), two.found(everybody)
    print(f"{len(one.same)} pairs of one person")
    for at, rate in enumerate(RATES):
        drawn = *spread[..., at].T, spread[:, 0, at] - spread[:, 1, at]
        spans = [100 * np.quantile(values, (0.025, 0.975)) for values in drawn]
        values = [100 * shares[0][at], 100 * shares[1][at], 100 * (shares[0][at] - shares[1][at])]
        shown = (f"{value:.2f} ({low:.2f} to {high:.2f})" for value, (low, high) in zip(values, spans))
        print(f"1 in {1 / rate:7.0f}: " + ", ".join(shown))


if __name__ == "__main__":
    main(*sys.argv[1:])
