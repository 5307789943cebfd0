"""Makes the photographs of this folder, and the self-test picture of the pack dlib-mtcnn, from their sources.

The results are committed: JPEG bytes differ from one encoder version to the next. SOURCES.md says where the sources come
from; run with the pinned tools of models/convert.

    pip download --no-deps scikit-image==0.25.2
    pip download --no-deps --no-build-isolation face_recognition==1.3.0
    python3 make.py SCIKIT_IMAGE.whl FACE_RECOGNITION.tar.gz
"""

import io
import pathlib
import sys
import tarfile
import zipfile

from PIL import Image, ImageEnhance

HERE = pathlib.Path(__file__).resolve().parent
PACK = HERE.parents[2] / "models" / "packs" / "dlib-mtcnn"


def portrait(picture, box, size):
    return picture.crop(box).resize((size, size), Image.Resampling.LANCZOS)


def second(picture, degrees, light, contrast):
    """Another picture of the same person: turned, cut narrower, in other light, smaller."""
    width, height = picture.size
    turned = picture.rotate(degrees, Image.Resampling.BICUBIC)
    cut = turned.crop((width // 10, height // 12, width - width // 10, height - height // 8))
    cut = cut.resize((340, 340 * cut.height // cut.width), Image.Resampling.LANCZOS)
    return ImageEnhance.Contrast(ImageEnhance.Brightness(cut).enhance(light)).enhance(contrast)


def main(wheel, sdist):
    with zipfile.ZipFile(wheel) as archive:
        astronaut, coffee = (Image.open(io.BytesIO(archive.read(f"skimage/data/{n}.png"))).convert("RGB")
                             for n in ("astronaut", "coffee"))
    with tarfile.open(sdist) as archive:
        obama, biden = (Image.open(io.BytesIO(archive.extractfile(
            f"face_recognition-1.3.0/tests/test_images/{n}.jpg").read())).convert("RGB") for n in ("obama", "biden"))
    people = {
        "astronaut": (portrait(astronaut, (0, 0, 460, 460), 460), 6, 0.75, 0.9),
        "obama": (portrait(obama, (200, 0, 800, 600), 480), -7, 1.2, 1.1),
        "biden": (portrait(biden, (300, 80, 860, 640), 480), 5, 1.25, 0.85),
    }
    for name, (picture, *change) in people.items():
        picture.save(HERE / f"{name}_1.jpg", quality=85)
        second(picture, *change).save(HERE / f"{name}_2.jpg", quality=75)
    group = Image.new("RGB", (3 * 320, 320))
    for column, (picture, *_) in enumerate(people.values()):
        group.paste(picture.resize((320, 320), Image.Resampling.LANCZOS), (column * 320, 0))
    group.save(HERE / "group.jpg", quality=80)
    coffee.save(HERE / "noface.jpg", quality=75)
    astronaut.crop((40, 0, 424, 384)).save(PACK / "selftest.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
