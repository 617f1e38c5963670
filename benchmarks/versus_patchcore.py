"""PatchCore as others have it, for `versus.py`: anomalib's, and the scheme of the paper's authors. Given a bank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from versus_contender import Contender, seconds
from versus_network import Network

LAYERS = ("layer2", "layer3")


class Patchcore(Contender):
    """anomalib's `PatchcoreModel` with its defaults (9 neighbours in the score), and a given backbone."""

    def __init__(self, backbone: Path, size: int, threads: int) -> None:
        from anomalib.models.image.patchcore.lightning_model import Patchcore as Theirs
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        super().__init__(threads)
        self.model = PatchcoreModel(layers=LAYERS, backbone="resnet18", pre_trained=False)
        self.model.feature_extractor = Network(onnx.load(backbone))
        self.transform = Theirs.configure_pre_processor((size, size)).transform

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
        """Seconds to decode, resize and embed all images, and to stack the result, as anomalib's training does."""

        def run() -> None:
            for batch in self.loader(images):
                self.model(batch)
            torch.vstack(self.model.embedding_store)

        self.model.train()
        try:
            return seconds(run)
        finally:
            self.model.embedding_store.clear()

    def judge_all(self, images: list[str], to: str | None = None) -> list[float]:
        """The score of each image, as ever; the largest patch distances, which one neighbour gives, are kept."""
        weighted, self.largest = self.model.compute_anomaly_score, []

        def also_largest(patch_scores: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            self.largest.append(float(patch_scores.max()))
            return weighted(patch_scores, *rest)

        self.model.compute_anomaly_score = also_largest
        try:
            return super().judge_all(images, to)
        finally:
            del self.model.compute_anomaly_score  # the class's own is left

    def largest_distances(self) -> list[float]:
        """Of the images judged last."""
        return self.largest

    def features(self, tensor: torch.Tensor) -> torch.Tensor:
        """Patch features (patches, d) of one image (1, 3, h, w); the model is in training mode."""
        with torch.inference_mode():
            features = self.model(tensor)
        self.model.embedding_store.clear()
        return features


class Authors(Patchcore):
    """The scheme of the paper's authors: the same features, searched by faiss's `IndexFlatL2`; the largest distance."""

    def use_bank(self, bank: str) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        entries = np.load(bank)
        self.index = faiss.IndexFlatL2(entries.shape[1])
        self.index.add(entries)
        self.model.train()

    def judge(self, tensor: torch.Tensor) -> tuple[float, np.ndarray]:
        """Score and distances (patches,) of one image; no map is made of them."""
        squared, _ = self.index.search(self.features(tensor).numpy(), 1)
        distances = np.sqrt(squared[:, 0])
        return float(distances.max()), distances
