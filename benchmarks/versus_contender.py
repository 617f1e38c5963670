"""What `versus.py` runs in the other environment: anomalib's PatchCore, or the scheme of the paper's authors.

Reads one JSON object a line, `{"call": METHOD, ...arguments}`, and answers each with `{"result": ...}` or
`{"error": ...}`, the first of them once it is ready; ends when its input does. Arrays travel as `.npy` files. Times are
taken here, in seconds, so that the conversation is no part of them. Goodparts is not installed where this runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from onnx import numpy_helper

LAYERS = ("layer2", "layer3")
BATCH = 32  # anomalib's default for training


def main() -> None:
    parser = argparse.ArgumentParser(description="Started by versus.py.")
    parser.add_argument("contender", choices=tuple(CONTENDERS))
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--shim", type=Path)
    options = parser.parse_args()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints must not come between the answers

        def answer(**reply: Any) -> None:
            answers.write(json.dumps(reply) + "\n")
            answers.flush()

        try:
            contender = prepare(options)
        except Exception:
            answer(error=traceback.format_exc())
            return
        answer(result=None)
        for line in sys.stdin:
            call = json.loads(line)
            try:
                answer(result=getattr(contender, call.pop("call"))(**call))
            except Exception:
                answer(error=traceback.format_exc())


def prepare(options: argparse.Namespace) -> Anomalib:
    """The contender, its libraries imported."""
    if options.shim:
        spec = importlib.util.spec_from_file_location("shim", options.shim)
        if spec is None or spec.loader is None:
            raise ImportError(f"--shim {options.shim}: not a Python file")
        sys.modules["shim"] = importlib.util.module_from_spec(spec)  # what it declares lives as long as it
        spec.loader.exec_module(sys.modules["shim"])
    return CONTENDERS[options.contender](options.backbone, options.size, options.threads)


class Anomalib:
    """anomalib's `PatchcoreModel` with its defaults (9 neighbours in the score), and a given backbone."""

    def __init__(self, backbone: Path, size: int, threads: int) -> None:
        from anomalib.models.image.patchcore.lightning_model import Patchcore
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        torch.set_num_threads(threads)
        self.size, self.threads = (size, size), threads
        self.model = PatchcoreModel(layers=LAYERS, backbone="resnet18", pre_trained=False)
        self.model.feature_extractor = Network(onnx.load(backbone))
        self.transform = Patchcore.configure_pre_processor(self.size).transform

    def use_bank(self, bank: str) -> None:
        """Inspect with this memory bank (m, d) from now on."""
        self.model.memory_bank = torch.from_numpy(np.load(bank))
        self.model.eval()

    def embed(self, working: str, to: str) -> None:
        """Save the patch features (patches, d) of a working image (h, w, 3) uint8."""
        self.model.train()
        pixels = torch.from_numpy(np.load(working)).permute(2, 0, 1) / 255
        np.save(to, self.features(self.transform(pixels)[None]).numpy())

    def coreset(self, features: str, picks: int) -> tuple[float, float]:
        """Seconds that `KCenterGreedy` takes to begin (its projection, one pick), and with this many picks."""
        from anomalib.models.components import KCenterGreedy

        embedding = torch.from_numpy(np.load(features))
        return tuple(
            seconds(KCenterGreedy(embedding, (count + 0.5) / len(embedding)).sample_coreset)
            for count in (1, picks)
        )

    def extract(self, images: list[str]) -> float:
        """Seconds to decode, resize and embed all images, and to stack the result, as anomalib's training does.

        Decoding and resizing in processes of their own, as many as there are cores, is what its data modules do.
        """
        loader = torch.utils.data.DataLoader(Images(images, self), batch_size=BATCH, num_workers=self.threads)

        def run() -> None:
            for batch in loader:
                self.model(batch)
            torch.vstack(self.model.embedding_store)

        self.model.train()
        try:
            return seconds(run)
        finally:
            self.model.embedding_store.clear()

    def inspect(self, image: str) -> float:
        """Seconds for one image that is decoded, resized and normalised already; the second of two goes."""
        tensor = self.read(image)
        self.judge(tensor)
        return seconds(lambda: self.judge(tensor))

    def score(self, images: list[str]) -> list[float]:
        """The anomaly score of each image."""
        return [self.judge(self.read(image)) for image in images]

    def both_scores(self, images: list[str]) -> list[tuple[float, float]]:
        """The score of each image, and its largest patch distance, which is the score with one neighbour."""
        weighted, largest = self.model.compute_anomaly_score, []

        def also_largest(patch_scores: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            largest.append(float(patch_scores.max()))
            return weighted(patch_scores, *rest)

        self.model.compute_anomaly_score = also_largest
        return list(zip(self.score(images), largest, strict=True))

    def judge(self, tensor: torch.Tensor) -> float:
        """The score of one image (1, 3, h, w); its map is made with it."""
        with torch.inference_mode():
            return float(self.model(tensor).pred_score)

    def features(self, tensor: torch.Tensor) -> torch.Tensor:
        """Patch features (patches, d) of one image (1, 3, h, w); the model is in training mode."""
        with torch.inference_mode():
            features = self.model(tensor)
        self.model.embedding_store.clear()
        return features

    def read(self, image: str) -> torch.Tensor:
        """The image as anomalib's data sets read and its pre-processor resizes it, (1, 3, h, w)."""
        from anomalib.data.utils import read_image

        return self.transform(read_image(image, as_tensor=True))[None]


class Authors(Anomalib):
    """The scheme of the paper's authors: the same features, searched by faiss's `IndexFlatL2`; the largest distance."""

    def use_bank(self, bank: str) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        entries = np.load(bank)
        self.index = faiss.IndexFlatL2(entries.shape[1])
        self.index.add(entries)
        self.model.train()

    def judge(self, tensor: torch.Tensor) -> float:
        squared, _ = self.index.search(self.features(tensor).numpy(), 1)
        return float(np.sqrt(squared.max()))


class Exported(Anomalib):
    """anomalib's model as its exporter writes it, run by OpenVINO in float32."""

    precision: ClassVar[dict[str, str]] = {"INFERENCE_PRECISION_HINT": "f32"}

    def use_bank(self, bank: str) -> None:
        import openvino

        super().use_bank(bank)
        core, exported = openvino.Core(), Path(bank).with_suffix(".onnx")
        image = torch.zeros(1, 3, *self.size)
        if not exported.is_file():
            torch.onnx.export(self.model, (image,), str(exported), opset_version=18, dynamo=True)
        options = {"PERFORMANCE_HINT": "LATENCY", **self.precision}
        self.request = core.compile_model(str(exported), "CPU", options).create_infer_request()

    def judge(self, tensor: torch.Tensor) -> float:
        self.request.infer({0: tensor.numpy()})
        return float(self.request.get_output_tensor(0).data[0])


class ExportedFreely(Exported):
    """The same, in the precision that OpenVINO chooses by itself, as anomalib's inferencer lets it."""

    precision: ClassVar[dict[str, str]] = {}


CONTENDERS = {
    "anomalib": Anomalib,
    "authors": Authors,
    "exported": Exported,
    "exported_freely": ExportedFreely,
}


class Images(torch.utils.data.Dataset):
    """Image files as a data set."""

    def __init__(self, images: list[str], contender: Anomalib) -> None:
        self.images, self.contender = images, contender

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.contender.read(self.images[index])[0]


class Network(torch.nn.Module):
    """An ONNX graph of convolutions, ReLUs, additions and max poolings; gives its outputs by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type in ("Cast", "Identity") and node.input[0] in values:
                values[node.output[0]] = values[node.input[0]]
        self.nodes = [node for node in graph.node if node.output[0] not in values]
        self.image = next(item.name for item in graph.input if item.name not in values)
        self.outputs = [item.name for item in graph.output]
        self.layers = torch.nn.ModuleList(_layer(node, values) for node in self.nodes)
        last = {name: index for index, node in enumerate(self.nodes) for name in node.input}
        self.done = [  # what no later node reads
            [name for name in set(node.input) if last[name] == index and name not in self.outputs]
            for index, node in enumerate(self.nodes)
        ]
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {self.image: image}
        for node, layer, done in zip(self.nodes, self.layers, self.done, strict=True):
            inputs = [values[name] for name in node.input if name in values]
            if node.op_type == "Add":
                values[node.output[0]] = inputs[0] + inputs[1]
            elif node.op_type == "Relu" and done:
                values[node.output[0]] = torch.relu_(*inputs)
            else:
                values[node.output[0]] = layer(*inputs)
            del inputs
            for name in done:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}


def _layer(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> torch.nn.Module:
    options = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    pads = options.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:] or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"{node.name}: padding {pads}; only the same on both sides is known here")
    if node.op_type == "Conv":
        weight = torch.tensor(values[node.input[1]], dtype=torch.float32)
        layer = torch.nn.Conv2d(
            weight.shape[1] * options.get("group", 1),
            weight.shape[0],
            tuple(weight.shape[2:]),
            tuple(options.get("strides", [1, 1])),
            tuple(pads[:2]),
            groups=options.get("group", 1),
            bias=len(node.input) > 2,
        )
        layer.weight.data = weight
        if layer.bias is not None:
            layer.bias.data = torch.tensor(values[node.input[2]], dtype=torch.float32)
        return layer
    if node.op_type == "MaxPool":
        return torch.nn.MaxPool2d(
            tuple(options["kernel_shape"]),
            tuple(options["strides"]),
            tuple(pads[:2]),
            ceil_mode=bool(options.get("ceil_mode", 0)),
        )
    if node.op_type == "Relu":
        return torch.nn.ReLU()
    if node.op_type == "Add":
        return torch.nn.Identity()
    raise ValueError(f"{node.op_type} is not known here; take a ResNet")


def seconds(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
