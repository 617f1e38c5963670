"""Other methods of anomalib, for `versus.py`: each with its published defaults, learning from the good images itself.

Without anomalib's Lightning engine and without its validation, which chooses a threshold: its modules, in its order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import onnx
import torch
from versus_contender import Contender
from versus_network import Network

SEED = 42  # of anomalib's own benchmarks


class MHPatchcore(Contender):
    """Mahalanobis PatchCore: PCA, whitening by a shrunk covariance, a bank of 1,000; and a given backbone.

    256 pixels, of which the middle 224, whatever `size` says: it refuses another crop.
    """

    layers = ("layer2", "layer3")

    def __init__(self, backbone: Path, size: int, threads: int) -> None:
        from anomalib.models import MHPatchcore as Theirs

        super().__init__(threads)
        self.method = Theirs(backbone="resnet18", pre_trained=False)
        self.transform = Theirs.configure_pre_processor().transform
        self.model = self.method.model
        self.model.feature_extractor = Network(onnx.load(backbone))
        self.model.feature_extractor.out_dims = [self._channels(layer) for layer in self.layers]

    def fit(self, images: list[str]) -> dict[str, Any]:
        """Three passes over all good images."""
        torch.manual_seed(SEED)
        began = time.perf_counter()
        self.method.train()
        with torch.no_grad():
            for _ in range(self.method.trainer_arguments["max_epochs"]):
                for batch in self.loader(images, shuffle=True):
                    self.method.training_step(SimpleNamespace(image=batch))
                self.method.fit()
        self.method.eval()
        entries, batches = len(self.model.memory_bank.bank), len(self.loader(images))
        return {"seconds": time.perf_counter() - began, "entries": entries, "batches": batches}

    def _channels(self, layer: str) -> int:
        with torch.no_grad():
            return int(self.model.feature_extractor(torch.zeros(1, 3, 64, 64))[layer].shape[1])


class Padim(Contender):
    """PaDiM: a Gaussian for each place, of 100 features drawn from layers 1 to 3 of ResNet-18, at 256 pixels."""

    def __init__(self, backbone: Path, size: int, threads: int) -> None:
        from anomalib.models import Padim as Theirs
        from anomalib.models.image.padim.torch_model import PadimModel

        super().__init__(threads)
        torch.manual_seed(SEED)
        self.model = PadimModel(backbone="resnet18", pre_trained=False)
        self.model.feature_extractor = Network(onnx.load(backbone))
        self.transform = Theirs.configure_pre_processor().transform

    def fit(self, images: list[str]) -> dict[str, Any]:
        """One pass over all good images."""
        began = time.perf_counter()
        self.model.train()
        for batch in self.loader(images):
            self.model(batch)
        self.model.fit()
        self.model.eval()
        return {"seconds": time.perf_counter() - began}


class EfficientAd(Contender):
    """EfficientAD-S: student and autoencoder learn from a pretrained teacher, at 256 pixels, an image a step.

    Without its teacher's weights a few steps and inspections are what a run of any length takes: times are real, and
    there are no scores.
    """

    steps = 70_000  # the paper's
    few = 10

    def __init__(self, backbone: Path, size: int, threads: int) -> None:
        from anomalib.models import EfficientAd as Theirs

        super().__init__(threads)
        torch.manual_seed(SEED)
        self.method = Theirs(model_size="small")
        self.model = self.method.model
        self.transform = Theirs.configure_pre_processor().transform

    def fit(
        self, images: list[str], teacher: str | None, imagenette: str | None, minutes: float
    ) -> dict[str, Any]:
        """Train until `minutes` are over; a tenth of the good images sets the units of its two maps, as the
        paper has it.
        """
        images = random.Random(SEED).sample(images, len(images))
        if teacher is None:
            images = images[: 2 * self.few]
        else:
            self.model.teacher.load_state_dict(torch.load(teacher, map_location="cpu", weights_only=True))
        held_out, learnt = images[: -(-len(images) // 10)], images[-(-len(images) // 10) :]
        limit, seconds = self.steps if teacher else self.few, 60 * minutes
        began = time.perf_counter()
        others = self._others(imagenette)
        self.model.mean_std.update(self.method.teacher_channel_mean_std(self._batches(learnt)))
        optimizer = torch.optim.Adam(
            [*self.model.student.parameters(), *self.model.ae.parameters()],
            lr=self.method.lr,
            weight_decay=self.method.weight_decay,
        )
        self.model.train()
        spent: list[float] = []  # seconds of each step
        over = False
        while not over:
            for batch in self.loader(learnt, batch=1, shuffle=True):
                started = time.perf_counter()
                late = max(len(spent) / limit, (started - began) / seconds) > 0.95
                optimizer.param_groups[0]["lr"] = self.method.lr * (0.1 if late else 1)
                optimizer.zero_grad()
                sum(self.model(batch=batch, batch_imagenet=next(others))).backward()
                optimizer.step()
                spent.append(time.perf_counter() - started)
                over = len(spent) == limit or bool(teacher and time.perf_counter() - began >= seconds)
                if over:
                    break
        self.model.eval()
        self.model.quantiles.update(self.method.map_norm_quantiles(self._batches(held_out)))
        took = {"seconds": time.perf_counter() - began, "step": median(spent)}
        return {**took, "steps": len(spent), "of": self.steps}

    def _batches(self, images: list[str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(image=self.read(image), gt_label=[0]) for image in images]

    def _others(self, imagenette: str | None) -> Iterator[torch.Tensor]:
        """Images of other things, (1, 3, h, w), without end; noise where there are none."""
        size = self.transform.transforms[0].size
        if imagenette is None:
            while True:
                yield torch.rand(1, 3, *size)
        self.method.imagenet_dir = Path(imagenette)
        self.method.prepare_imagenette_data(size)
        while True:
            yield from (image for image, _ in self.method.imagenet_loader)
