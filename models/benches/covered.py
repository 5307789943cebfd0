"""Paints masks, bars over the eyes and sunglasses on photographs and counts how many people are still known.

Each person in a folder of people (a folder for each) is enrolled from the first picture; the other pictures, and a
picture of each stranger, are searched with something painted on. For the accuracy on whole faces see `kithd eval`.

    cargo build --release --workspace --example analyse
    python models/benches/covered.py <people folder> <strangers folder>     # kithd from target/release
"""

import collections
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parents[2]
KITHD, ANALYSE = ROOT / "target/release/kithd", ROOT / "target/release/examples/analyse"
PACK = ROOT / "models/packs" / (ROOT / "models/packs/bundled").read_text().strip()


def lines(*command):
    return [json.loads(line) for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]


def paint(kind, picture, face):
    """Covers the lower face, the eyes, or each eye, by the five landmarks."""
    left, top, right, bottom = face["bounds"]
    (ax, ay), (bx, by), (nx, ny) = face["landmarks"][:3]
    wide, apart = right - left, ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
    draw = ImageDraw.Draw(picture)
    if kind == "mask":
        draw.polygon([(left, ny - 0.1 * apart), (nx, ny - 0.35 * apart), (right, ny - 0.1 * apart),
                      (right - 0.1 * wide, bottom), (nx, bottom + 0.1 * wide), (left + 0.1 * wide, bottom)],
                     fill=(150, 190, 225))
    elif kind == "bar":
        draw.rectangle([left, min(ay, by) - 0.25 * apart, right, max(ay, by) + 0.25 * apart], fill=(0, 0, 0))
    else:
        for x, y in (ax, ay), (bx, by):
            draw.ellipse([x - 0.45 * apart, y - 0.33 * apart, x + 0.45 * apart, y + 0.33 * apart], fill=(15, 15, 18))
    return picture


def verdict(answer, person):
    """Returns the outcome of the first face, and whether its name, if any, is right."""
    faces = answer["faces"]
    if not faces:
        return "no face"
    name = (faces[0].get("person") or {}).get("name")
    return faces[0]["outcome"] + ("" if name is None else ", right" if name == person else ", WRONG")


def main():
    people, strangers = map(pathlib.Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        kithd = [KITHD, "--set", f"state_dir={scratch / 'state'}", "--set", f"models.pack={PACK}"]
        asked = []
        for folder in sorted(people.iterdir()):
            first, *others = sorted(folder.iterdir())
            (scratch / "gallery" / folder.name).mkdir(parents=True)
            shutil.copy(first, scratch / "gallery" / folder.name)
            asked += [(folder.name, path) for path in others]
        asked += [(None, path) for path in sorted(strangers.iterdir()) if path.suffix in (".jpg", ".png")]
        enrolled = subprocess.run([*kithd, "enroll", "--anyway", "--folder", scratch / "gallery"], capture_output=True)
        assert enrolled.returncode == 0, enrolled.stderr
        found = lines(ANALYSE, PACK, "int8", "40", *(path for _, path in asked))
        for kind in "mask", "bar", "sunglasses":
            painted = []
            for (person, path), answer in zip(asked, found):
                if answer.get("faces"):
                    painted.append((person, scratch / f"{kind}-{len(painted)}.png"))
                    paint(kind, Image.open(path).convert("RGB"), answer["faces"][0]).save(painted[-1][1])
            answers = lines(*kithd, "identify", "--json", *(path for _, path in painted))
            counts = collections.Counter((person is None, verdict(answer, person))
                                         for (person, _), answer in zip(painted, answers))
            for (stranger, what), count in sorted(counts.items()):
                print(f"{kind:10} {'strangers' if stranger else 'enrolled':9} {what:17} {count}")


if __name__ == "__main__":
    main()
