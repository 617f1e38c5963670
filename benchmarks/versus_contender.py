"""What every contender of `versus.py` can do, in the other environment: read, judge, and run its export."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

BATCH = 32  # anomalib's default for training


class Contender:
    """A method of anomalib: its torch model, and its own way of reading and resizing an image.

    Attributes:
        model: gives an object with `pred_score` (1,) and `anomaly_map` (1, 1, h, w) for an image (1, 3, h, w).
        transform: from an image (3, H, W) float32 in 0..1 to (3, h, w).
    """

    model: torch.nn.Module
    transform: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.request: Any = None

    def inspect(self, image: str) -> float:
        """Seconds for one image that is decoded, resized and normalised already; the second of two goes."""
        tensor = self.read(image)
        self.judge(tensor)
        return seconds(lambda: self.judge(tensor))

    def judge_all(self, images: list[str], to: str | None = None) -> list[float]:
        """The score of each image; where `to` is given its anomaly maps are saved there, (n, h, w) float32."""
        found = [self.judge(self.read(image)) for image in images]
        if to is not None:
            np.save(to, np.stack([anomaly_map for _, anomaly_map in found]))
        return [score for score, _ in found]

    def judge(self, tensor: torch.Tensor) -> tuple[float, np.ndarray]:
        """Score and map (h, w) float32 of one image (1, 3, h, w)."""
        if self.request is not None:
            self.request.infer({0: tensor.numpy()})
            score, anomaly_map = (self.request.get_output_tensor(index).data for index in self.outputs)
            return float(score.reshape(-1)[0]), anomaly_map[0, 0]
        with torch.inference_mode():
            found = self.model(tensor)
        return float(found.pred_score), found.anomaly_map[0, 0].numpy()

    def export(self, to: str, image: str) -> None:
        """Write the model as anomalib's exporter does: the torch module as one ONNX graph."""
        tensor = self.read(image)
        torch.onnx.export(self.model, (tensor,), to, opset_version=18, dynamo=True)

    def use_export(self, exported: str, precision: str | None) -> None:
        """Judge with the exported file in OpenVINO from now on; precision None: what OpenVINO picks."""
        import openvino

        options = {"PERFORMANCE_HINT": "LATENCY"}
        options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
        compiled = openvino.Core().compile_model(exported, "CPU", options)
        ranks = [len(output.get_partial_shape()) for output in compiled.outputs]
        self.outputs = ranks.index(min(ranks)), ranks.index(4)
        self.request = compiled.create_infer_request()

    def read(self, image: str) -> torch.Tensor:
        """The image as anomalib's data sets read and its pre-processor resizes it, (1, 3, h, w)."""
        from anomalib.data.utils import read_image

        return self.transform(read_image(image, as_tensor=True))[None]

    def loader(self, images: list[str], batch: int = BATCH, **options: Any) -> torch.utils.data.DataLoader:
        """Batches of images; decoded and resized in as many processes as there are cores, as its data modules do."""
        return torch.utils.data.DataLoader(
            Images(images, self), batch_size=batch, num_workers=self.threads, **options
        )


class Images(torch.utils.data.Dataset):
    """Image files as a data set."""

    def __init__(self, images: list[str], contender: Contender) -> None:
        self.images, self.contender = images, contender

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.contender.read(self.images[index])[0]


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
