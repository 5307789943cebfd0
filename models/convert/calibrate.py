"""Calibrates the int8 recogniser on the float32 one: measures the value range of every tensor that it stores in 8 bits,
and how far rounding shifts the mean of each channel of each convolution.

Needs a folder of photographs with faces, which is not part of this repository. The result, recogniser_ranges.json, is
committed, with the names and sums of the pictures. Run it again only when the recogniser changes.

    python3 calibrate.py PACK_FOLDER PICTURES_FOLDER RANGES.json

The ranges are minimum and maximum, except for the first layer. Each tensor has its least square error at 0.44 to 0.94
of the maximum, but cutting all of them there doubled the largest distance to the float32 embedding. Cut one at a time,
only the first layer, cut at half, brought the mean distance down by more than 0.0002 (../benches/accuracy.md).
"""

import hashlib
import json
import pathlib
import re
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

import quantise
import reference

# Share of the first layer's largest value; only single pixels of a few pictures lie beyond it.
CUT = {"relu1": 0.5}


def outputs(model, names, inputs):
    """Yields the values of these tensors for each input. Runs without optimisation, which additional outputs would
    change."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for x in inputs:
        yield session.run(names, {"input": x[None]})


def measure(float32_path, inputs):
    """Returns {tensor: [minimum, maximum]} over `inputs`, for the tensors that get quantised."""
    model = onnx.load(float32_path)
    names = quantise.quantised_tensors(model.graph)
    ranges = {}
    for values in outputs(model, names, inputs):
        for name, values in zip(names, values):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = [min(low, float(values.min())), max(high, float(values.max()))]
    return {name: [low, high * CUT.get(name, 1)] for name, (low, high) in ranges.items()}


def channel_means(model, names, inputs):
    means = [[values.mean((0, 2, 3)) for values in found] for found in outputs(model, names, inputs)]
    return [np.mean(of_one, axis=0, dtype=np.float64) for of_one in zip(*means)]


def corrections(float32_path, ranges, inputs):
    """Returns {convolution: addition to each channel's bias that restores the mean of the float network}. Works layer
    by layer, as each correction includes the shifts of the layers before. Leaves out the pairs before sums, which our
    operators skip."""
    model = onnx.load(float32_path)
    kept = {name: of for name, of in ranges.items() if name.startswith(("relu", "maxpool"))}
    names = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "int8.onnx"
        for name, wanted in zip(names, channel_means(model, names, inputs)):
            quantiser = quantise.quantise(float32_path, {"ranges": kept, "corrections": found}, path)
            got = channel_means(onnx.load(path), [quantiser.floats[name]], inputs)[0]
            found[name] = [float(f"{value:.4g}") for value in wanted - got]
    return found


def main(pack, pictures, target):
    pipeline = reference.Pipeline(pack)
    inputs, used = [], {}
    for path in sorted(p for p in pictures.rglob("*") if p.suffix in (".jpg", ".png")):
        picture = reference.read_picture(path)
        crop = None if picture is None else pipeline.main_crop(picture)
        if crop is not None:
            inputs.append(pipeline.input([crop])[0])
            used[str(path.relative_to(pictures))] = hashlib.sha256(path.read_bytes()).hexdigest()
    network = pack / "recogniser_float32.onnx"
    ranges = measure(network, inputs)
    # Half of the pictures are enough, and take half the time.
    shifts = corrections(network, ranges, inputs[::2])
    text = json.dumps({
        "what": "for quantise.py: value ranges of the recogniser's tensors (minimum and maximum, the first layer's cut), "
                "and what is added to the biases of each convolution",
        "ranges": ranges,
        "corrections": shifts,
        "pictures": used,
    }, indent=1)
    # Puts the numbers of a list on one line.
    text = re.sub(r"(?<=\d)\n +(?=\])", "", re.sub(r"(?<=[\[,])\n +(?=[-\d])", " ", text)).replace("[ ", "[")
    target.write_text(text + "\n")
    print(f"{len(ranges)} ranges and {len(shifts)} corrections from {len(used)} pictures")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
