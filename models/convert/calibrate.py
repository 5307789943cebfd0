"""Measures the value range of every tensor that the int8 recogniser stores in 8 bits.

Needs a folder of photographs with faces, which is not part of this repository; the result,
recogniser_ranges.json, is, with the names and sums of the pictures. Run it again only when the recogniser changes.

    python3 calibrate.py PACK_FOLDER PICTURES_FOLDER RANGES.json

The ranges are plain minimum and maximum: cutting off rare values (quantiles of 0.99 to 0.99999) left the mean
distance to the float32 embedding as it was and more than doubled the largest.
"""

import hashlib
import json
import pathlib
import sys

import onnx
import onnxruntime

import quantise
import reference


def measure(float32_path, inputs):
    """{tensor: [minimum, maximum]} over `inputs`, for the tensors that get quantised."""
    model = onnx.load(float32_path)
    names = quantise.quantised_tensors(model.graph)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges = {}
    for x in inputs:
        for name, values in zip(names, session.run(names, {"input": x[None]})):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = [min(low, float(values.min())), max(high, float(values.max()))]
    return {name: ranges[name] for name in names}


def main(pack, pictures, target):
    pipeline = reference.Pipeline(pack)
    inputs, used = [], {}
    for path in sorted(p for p in pictures.rglob("*") if p.suffix in (".jpg", ".png")):
        picture = reference.read_picture(path)
        chip = None if picture is None else pipeline.main_chip(picture)
        if chip is not None:
            inputs.append(pipeline.input([chip])[0])
            used[str(path.relative_to(pictures))] = hashlib.sha256(path.read_bytes()).hexdigest()
    ranges = measure(pack / "recogniser_float32.onnx", inputs)
    target.write_text(json.dumps({
        "what": "value ranges of the recogniser's tensors (minimum and maximum), for quantise.py",
        "ranges": ranges,
        "pictures": used,
    }, indent=1) + "\n")
    print(f"{len(ranges)} ranges from {len(used)} pictures")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
