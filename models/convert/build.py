"""Makes every network of the pack dlib-mtcnn from its published weights and checks its sum against pack.toml.

    ./build.sh              downloads the inputs, builds in target/convert and compares with the pack
    ./build.sh --write      also writes the networks and their sums into the pack

Not for ranges (calibrate.py), the cohort (cohort.py) and photographs (daemon/tests/photos/make.py): those are committed
as they are.
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
import quantise

HERE = pathlib.Path(__file__).resolve().parent
PACK = HERE.parent / "packs" / "dlib-mtcnn"
WORK = HERE.parents[1] / "target" / "convert"
DLIB_WEIGHTS = ("face_recognition_models-0.3.0/face_recognition_models/models/"
                "dlib_face_recognition_resnet_model_v1.dat")


def download():
    """Fetches inputs.txt; pip refuses anything whose sum differs."""
    folder = WORK / "inputs"
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
                    "--require-hashes", "-r", HERE / "inputs.txt", "-d", folder], check=True)
    return next(folder.glob("face_recognition_models-*.tar.gz")), next(folder.glob("facenet_pytorch-*.whl"))


def build(sdist, wheel, out):
    with zipfile.ZipFile(wheel) as archive:
        for name, make in (("pnet", mtcnn.make_pnet), ("rnet", mtcnn.make_rnet), ("onet", mtcnn.make_onet)):
            with archive.open(f"facenet_pytorch/data/{name}.pt") as file:
                make(mtcnn.load_torch_weights(file), out / f"{name}.onnx")
    with tarfile.open(sdist) as archive:
        weights = archive.extractfile(DLIB_WEIGHTS).read()
    dlib_recogniser.make_recogniser(weights, out / "recogniser_float32.onnx")
    half.halve(out / "recogniser_float32.onnx", out / "recogniser_float16.onnx")
    calibration = json.loads((HERE / "recogniser_ranges.json").read_text())
    quantise.quantise(out / "recogniser_float32.onnx", calibration, out / "recogniser_int8.onnx")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(out):
    """Copies the networks into the pack and the sums of all its loaded files into pack.toml."""
    for path in out.glob("*.onnx"):
        shutil.copyfile(path, PACK / path.name)
    files = sorted([*PACK.glob("*.f32"), *PACK.glob("*.onnx"), *PACK.glob("*.jpg")], key=lambda p: p.name)
    sums = "".join(f'"{p.name}" = "{sha256(p)}"\n' for p in files)
    manifest = PACK / "pack.toml"
    manifest.write_text(re.sub(r"\[sha256\]\n(?:\".*\n)*", f"[sha256]\n{sums}", manifest.read_text()))


def main():
    out = WORK / "networks"
    out.mkdir(parents=True, exist_ok=True)
    build(*download(), out)
    if "--write" in sys.argv:
        write(out)
    wanted = tomllib.loads((PACK / "pack.toml").read_text())["sha256"]
    built = {p.name: sha256(p) for p in out.glob("*.onnx")}
    different = [name for name in sorted(built) if wanted.get(name) != built[name]]
    for name in sorted(built):
        print(f"{'DIFFERS' if name in different else 'equal':8} {built[name]} {name}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
