"""Makes visits of photographs: each becomes eight looks, as a camera has them of a visitor who comes nearer and goes.
`kithd eval --looks 1,2,4,8` measures with them (identification.md). Needs numpy and opencv-python-headless.

    python models/benches/looks.py <lfw-dev> <folder>

Writes <folder>/enrolled/<person>/0001.jpg, whole, for everybody with several pictures and every fifth of the others, and
<folder>/asked/<person>/<picture>_<look>.jpg for the other pictures of the ones and the picture of all further people. Each
look is turned, moved, scaled down, out of focus or moving, darker or lighter, noisy and compressed, all at random and the
same at each run. A photograph has one expression and one light, so its looks are more alike than a visitor's are.
"""

import hashlib
import pathlib
import sys

import cv2
import numpy as np

LOOKS = 8


def moving(picture, pixels, angle):
    kernel = np.zeros((pixels, pixels), np.float32)
    kernel[pixels // 2] = 1
    middle = (pixels - 1) / 2
    kernel = cv2.warpAffine(kernel, cv2.getRotationMatrix2D((middle, middle), angle, 1), (pixels, pixels))
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def look(picture, random):
    """Returns a look and the quality for JPEG."""
    height, width = picture.shape[:2]
    angle, scale, shear = random.uniform(-10, 10), random.uniform(0.35, 1.0), random.uniform(-0.08, 0.08)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    turn = turn @ np.array([[1, shear, -shear * height / 2], [0, random.uniform(0.95, 1.05), 0], [0, 0, 1]])
    turn[:, 2] += random.uniform(-6, 6, 2)
    made = cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    side = int(width * scale), int(height * scale)
    made = cv2.resize(made, side, interpolation=cv2.INTER_AREA).astype(np.float32)
    flaw = random.integers(3)
    if flaw == 1:
        made = cv2.GaussianBlur(made, (0, 0), random.uniform(0.3, 0.3 + 1.5 * scale))
    elif flaw == 2:
        made = moving(made, 1 + 2 * int(random.integers(1, 1 + max(1, int(4 * scale)))), random.uniform(0, 180))
    gamma = np.exp(random.uniform(-0.5, 0.5))
    made = 255 * (made / 255).clip(0, 1) ** gamma * random.uniform(0.35, 1.15)
    made = made * (1 + random.uniform(-0.4, 0.4) * np.linspace(-1, 1, made.shape[1])[None, :, None])
    made = made + random.normal(0, random.uniform(0.5, 5), made.shape)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8), int(random.integers(35, 92))


def main(source, folder):
    pictures, single = {}, 0
    for path in sorted(source.glob("*.jpg")):
        pictures.setdefault(path.stem.rsplit("_", 1)[0], []).append(path)
    for person, paths in pictures.items():
        single += len(paths) == 1
        if len(paths) > 1 or single % 5 == 0:
            whole = folder / "enrolled" / person / "0001.jpg"
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(paths.pop(0).read_bytes())
        for path in paths:
            seed = hashlib.sha256(path.stem.encode()).digest()[:8]
            random, picture = np.random.default_rng(int.from_bytes(seed, "big")), cv2.imread(str(path))
            asked = folder / "asked" / person
            asked.mkdir(parents=True, exist_ok=True)
            for number in range(1, LOOKS + 1):
                made, quality = look(picture, random)
                file = asked / f"{path.stem.rsplit('_', 1)[1]}_{number}.jpg"
                cv2.imwrite(str(file), made, [cv2.IMWRITE_JPEG_QUALITY, quality])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(pathlib.Path, sys.argv[1:]))
