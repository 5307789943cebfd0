"""Calibrates SFace for int8: finds a factor for each channel after each convolution, and for each layer the scale and
the zero point that its channels share.

Needs folders of labelled photographs, which are not part of this repository. The result, sface_ranges.json, is
committed, with the names and sums of the pictures. Run it again only when the recogniser changes.

    python3 sface_ranges.py PACK_FOLDER SFACE_RANGES.json PICTURES_FOLDER...

A positive factor passes through a PRelu, so the next layer can divide by it again. Before a depthwise convolution,
whose channels have a scale each, that costs nothing: each channel fills the range of a byte. Before a full convolution
or the product it makes some weights larger than others in their row; BALANCE is the share of the factor applied there
(Nagel et al. 2019 use a half). The range of a channel is the one that all but one in 200 pictures stay in. Uses one
picture of each person of the tuning half (cohort.py), and in it the face nearest the middle.
"""

import hashlib
import json
import pathlib
import re
import sys

import numpy as np
import onnx

import calibrate
import cohort
import reference
import sface

PICTURES, BALANCE, WITHIN, LEVELS = 160, 0.75, 0.995, 255


def crops(pipeline, folders):
    """Returns {path below its folder: (sum, crop)} of one picture of each person, for at most PICTURES people."""
    found = {}
    everybody = [(who, path, folder) for folder in folders for who, path in cohort.named(folder)]
    others = {cohort.person(who) for who, _, _ in everybody if not cohort.is_tuning(who)}
    first = {}
    for who, path, folder in everybody:
        if cohort.is_tuning(who) and cohort.person(who) not in others:
            first.setdefault(cohort.person(who), (path, folder))
    for person in sorted(first, key=lambda person: hashlib.sha256(person.encode()).digest()):
        path, folder = first[person]
        picture = reference.read_picture(path)
        crop = None if picture is None else pipeline.main_crop(picture)
        if crop is not None and len(found) < PICTURES:
            name = f"{folder.name}/{path.relative_to(folder)}"
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest(), crop
    return found


def extremes(model, inputs, names):
    """Returns the range of each channel, as lowest and highest values, for each of these tensors."""
    lows, highs = [[] for _ in names], [[] for _ in names]
    for values in calibrate.outputs(model, names, inputs):
        for low, high, value in zip(lows, highs, values):
            low.append(value[0].min((1, 2)))
            high.append(value[0].max((1, 2)))
    return [(np.minimum(np.quantile(low, 1 - WITHIN, axis=0), 0), np.maximum(np.quantile(high, WITHIN, axis=0), 1e-6))
            for low, high in zip(lows, highs)]


def filling(low, high):
    """Returns the factors that make every channel fill the range of a byte, at the zero point that suits most
    channels."""
    tries = [np.minimum(zero / np.maximum(-low, 1e-9), (1 - zero) / high) for zero in np.arange(2, 129) / LEVELS]
    return max(tries, key=lambda factors: np.log(factors * (high - low)).mean())


def fits(layers, ranges):
    """Yields (factors, scale, zero point) for the values after each convolution. `layers` holds the weights of each
    layer as [output, input channel, ...], or None for a depthwise one."""
    for (low, high), weights in zip(ranges, layers[1:], strict=True):
        factors = filling(low, high)
        if weights is not None:
            largest = np.abs(weights).max(axis=(0, *range(2, weights.ndim)))
            factors = largest ** (1 - BALANCE) * factors ** BALANCE
        factors = np.array([float(f"{factor:.4g}") for factor in factors / np.exp(np.log(factors).mean())])
        bottom, top = (factors * low).min(), (factors * high).max()
        scale = float(f"{(top - bottom) / LEVELS:.6g}")
        yield factors.tolist(), scale, int(np.clip(round(-bottom / scale), 0, LEVELS))


def layers(graph):
    """Yields the weights of each layer in the form for `fits`."""
    read = sface.Reader(graph)
    for node in read.nodes:
        if node.op_type == "Conv":
            shape = read.blocks(node.input[1])[2]
            depthwise = next(a.i for a in node.attribute if a.name == "group") > 1
            yield None if depthwise else read.numbers(node.input[1]).reshape(shape)
        elif node.op_type == "Mul":
            before = read.values[node.input[1]].reshape(1, -1, 1)
        elif node.op_type == "Gemm":
            weights = read.numbers(node.input[1])
            yield weights.reshape(len(weights), before.size, -1) * before


def main(pack, target, *folders):
    pipeline = reference.Pipeline(pack)
    used = crops(pipeline, folders)
    model = onnx.load(pack / "recogniser.onnx")
    of_layers = list(layers(model.graph))
    slopes = [node.output[0] for node in model.graph.node if node.op_type == "PRelu"]
    ranges = extremes(model, [pipeline.input([crop])[0] for _, crop in used.values()], slopes)
    found = list(fits(of_layers, ranges))
    text = json.dumps({
        "what": "for sface.py: behind each convolution a factor for each channel, and scale and zero point of all",
        "fits": [dict(zip(("scale", "zero", "factors"), (scale, zero, factors))) for factors, scale, zero in found],
        "pictures": {name: of for name, (of, _) in used.items()},
    }, indent=1)
    # Puts the numbers of a list on one line.
    text = re.sub(r"(?<=\d)\n +(?=\])", "", re.sub(r"(?<=[\[,])\n +(?=[-\d])", " ", text)).replace("[ ", "[")
    target.write_text(text + "\n")
    print(f"{len(found)} layers from {len(used)} pictures")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
