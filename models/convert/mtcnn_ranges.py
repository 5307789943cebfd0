"""Measures how the values between the layers of MTCNN's networks fit into 8 bits: for each channel behind each convolution a
factor, and for each layer the scale and the zero point that all its channels then share.

Needs folders of labelled photographs, which are not part of this repository; the result, mtcnn_ranges.json, is, with the
names and sums of the pictures. Run it again only when the detector changes.

    python3 mtcnn_ranges.py PACK_FOLDER FLOAT32_FOLDER MTCNN_RANGES.json PICTURES_FOLDER...

The pack is sface, whose thresholds decide what goes on from one network to the next; the networks themselves are the float32
ones, which dlib-mtcnn has.

What each network is shown is what the float32 cascade shows it in one picture of each person of the tuning half
(sface_ranges.py, which has the factors too).
"""

import hashlib
import json
import pathlib
import re
import sys

import numpy as np
import onnx

import calibrate
import mtcnn_int8
import reference
import sface_ranges


class Recorder:
    """A network that keeps what it is shown."""

    def __init__(self, session):
        self.session, self.shown = session, []

    def run(self, names, inputs):
        self.shown.extend(inputs["input"])
        return self.session.run(names, inputs)


def layers(graph):
    """The weights of each convolution, as [output, input channel, ...], and of what follows the last."""
    found = [graph.values[node.input[1]] for node in graph.nodes if node.op_type == "Conv"]
    kept = len(graph.slopes())
    channels = len(found[kept - 1])
    dense = [graph.values[node.input[1]].T for node in graph.nodes if node.op_type == "Gemm"][:1]
    behind = found[kept:] + [matrix.reshape(len(matrix), channels, -1) for matrix in dense]
    return found[:kept] + [np.concatenate([weights.reshape(*weights.shape[:2], -1) for weights in behind])]


def main(pack, float32, target, *folders):
    pipeline = reference.Pipeline(pack)
    watched = {name: Recorder(reference.session(float32 / f"{name}.onnx")) for name in ("pnet", "rnet", "onet")}
    vars(pipeline.detector).update(watched)
    used = sface_ranges.crops(pipeline, folders)
    fits = {}
    for name, network in watched.items():
        model = onnx.load(float32 / f"{name}.onnx")
        graph = mtcnn_int8.Graph(model.graph)
        names = [node.output[0] for node in graph.slopes()]
        found = list(sface_ranges.fits(layers(graph), sface_ranges.extremes(model, network.shown, names)))
        fits[name] = [dict(zip(("scale", "zero", "factors"), (scale, zero, factors))) for factors, scale, zero in found]
        print(name, len(network.shown), "inputs")
    text = json.dumps({
        "what": "for mtcnn_int8.py: behind each convolution a factor for each channel, and scale and zero point of all",
        "fits": fits,
        "pictures": {name: of for name, (of, _) in used.items()},
    }, indent=1)
    # The numbers of a list on one line.
    text = re.sub(r"(?<=\d)\n +(?=\])", "", re.sub(r"(?<=[\[,])\n +(?=[-\d])", " ", text)).replace("[ ", "[")
    target.write_text(text + "\n")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
