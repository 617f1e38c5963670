"""PyTorch networks as backbones: patch features of any `torch.nn.Module`, from layers that are named.

    import timm
    from goodparts import Inspector, Recipe
    from goodparts.torch import FeatureExtractor

    extractor = FeatureExtractor(timm.create_model("resnet50", pretrained=True), layers=("layer2", "layer3"))
    features = extractor(images)                                   # (n, 28, 28, 1536) of (n, 3, 224, 224)
    inspector = Inspector(Recipe(image_size=224), backbone=extractor).fit("parts/good")
    inspector.save("part.goodparts")                               # needs no PyTorch from here on

What computes is `goodparts.engines`; this is for those who bring a network. docs/pytorch.md is the cookbook.
"""

from __future__ import annotations

import difflib
import io
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

try:
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import Tensor, nn
except ImportError as error:
    raise ImportError("goodparts.torch needs PyTorch: pip install 'goodparts[torch]'") from error

from goodparts.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, read_backbone
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph
from goodparts.engines.runtime import Runtime
from goodparts.errors import BackboneError, shortened

__all__ = ["FeatureExtractor"]

_PATCHES = (8, 14, 16, 32)  # pixels of a transformer's patch
_MOST_PREFIX = 16  # class and register tokens
_CLOSE = 1e-3  # of the largest value: how near an exported network has to be
_OPSET = 18


class _Done(Exception):  # noqa: N818
    """All layers that are wanted have been computed."""


class FeatureExtractor(nn.Module):
    """Patch features of some layers of a network.

    >>> FeatureExtractor(resnet50, layers=("layer2[-1]", "layer3.5"))(images).shape        # doctest: +SKIP
    torch.Size([4, 28, 28, 1536])

    As a backbone (`Inspector(recipe, backbone=extractor)`) it gives its layers alone; how they are averaged and joined
    is then the recipe's (`patch_size`, `layer_fusion`, `layer_weights`, `banks`).

    Args:
        module: the network; it takes images (n, 3, height, width) float32, normalised. It is set to evaluation.
        layers: names of submodules, as `named_modules` has them, or with an index: "layer2", "layer2.3", "layer2[-1]".
            Their outputs are feature maps (n, d, h, w), or tokens (n, t, d), of which class and register tokens are
            dropped.
        fusion: how coarser layers come to the finest grid: "bilinear", or "adaptive" average pooling, which takes finer
            layers to the grid of the first one.
        patch_size: features are averaged over so many cells each way (odd).
        mean, std: of RGB / 255, by which the network's images are normalised.
        name: what to call it; None: the class of the module.
        source, licence: of the weights, as the model file keeps them.

    Raises:
        BackboneError: a layer that isn't there; the message names the nearest.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str] = ("layer2", "layer3"),
        *,
        fusion: str = "bilinear",
        patch_size: int = 3,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        name: str | None = None,
        source: str = "",
        licence: str = "unknown",
    ) -> None:
        super().__init__()
        if fusion not in ("bilinear", "adaptive"):
            raise BackboneError(f"fusion: expected bilinear or adaptive, found {fusion!r}")
        if isinstance(layers, str) or not layers:
            raise BackboneError(f"layers: expected names such as ('layer2', 'layer3'), found {layers!r}")
        self.module = module.eval()
        self.layers = tuple(layers)
        self.fusion, self.patch_size = fusion, patch_size
        self.mean, self.std = mean, std
        self.name = name or type(module).__name__.lower()
        self.source, self.licence = source or f"torch.nn.Module {type(module).__qualname__}", licence
        self._places = tuple(_qualified(module, layer) for layer in self.layers)

    def forward(self, images: Tensor) -> Tensor:
        """Patch features (n, h, w, d) of images (n, 3, height, width), on the grid of the finest layer."""
        height, width = int(images.shape[2]), int(images.shape[3])
        maps = [
            self._as_map(layer, found, (height, width))
            for layer, found in zip(self.layers, self.outputs(images), strict=True)
        ]
        pad = self.patch_size // 2
        maps = [F.avg_pool2d(found, self.patch_size, 1, pad) if pad else found for found in maps]
        sizes = [(int(found.shape[2]), int(found.shape[3])) for found in maps]
        grid = sizes[0] if self.fusion == "adaptive" else max(sizes, key=math.prod)
        return torch.cat([self._on_grid(found, grid) for found in maps], dim=1).permute(0, 2, 3, 1)

    def outputs(self, images: Tensor, *, stop: bool = True) -> list[Tensor]:
        """What each layer gives as it is, in their order; nothing after the last of them is computed.

        Raises:
            BackboneError: a layer was not reached, or gave no tensor.
        """
        found: dict[str, Tensor] = {}
        with self._hooks(found, stop), suppress(_Done):
            self.module(images)
        for layer, place in zip(self.layers, self._places, strict=True):
            if place not in found:
                raise BackboneError(
                    f"layer {layer}: the network never came to it; is it part of what `forward` computes?"
                )
        return [found[place] for place in self._places]

    def to_backbone(self, image_size: tuple[int, int] = (224, 224)) -> Backbone:
        """The network down to its layers as an ONNX graph, which gives what it gives.

        Args:
            image_size: (height, width) at which it is exported; networks that take others keep that.

        Raises:
            BackboneError: it can't be exported, or gives something else then; or a layer gives neither a feature map
                nor tokens.
        """
        height, width = image_size
        example = torch.rand(1, 3, height, width)
        on = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        module = self.module.eval().to("cpu")
        try:
            with torch.inference_mode():
                expected = self.outputs(example)
            for layer, found in zip(self.layers, expected, strict=True):
                self._as_map(layer, found, image_size)
            free = self._works_at(height + 64, width + 32)
            network = self._exported(example, free)
        finally:
            module.to(on)
        self._require_same(network, example, expected)
        helper.set_model_props(
            network,
            {
                "architecture": self.name,
                "mean": ",".join(map(repr, self.mean)),
                "std": ",".join(map(repr, self.std)),
                "color": "RGB",
                "range": "0..1",
                "source": self.source,
                "licence": self.licence,
            },
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.name)}.onnx")
            path.write_bytes(network.SerializeToString())
            return replace(read_backbone(path), name=self.name, source=self.source, short_names=self.layers)

    # ---- inside

    @contextmanager
    def _hooks(self, found: dict[str, Tensor], stop: bool) -> Iterator[None]:
        handles = []

        def keep(place: str, layer: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                if not isinstance(output, Tensor):
                    raise BackboneError(
                        f"layer {layer}: gives {type(output).__name__}; expected a feature map (n, d, h, w) or tokens "
                        "(n, t, d): name a submodule that gives one tensor"
                    )
                found[place] = output
                if stop and len(found) == len(set(self._places)):
                    raise _Done

            return hook

        try:
            for place, layer in zip(self._places, self.layers, strict=True):
                handles.append(self.module.get_submodule(place).register_forward_hook(keep(place, layer)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _as_map(self, layer: str, found: Tensor, image_size: tuple[int, int]) -> Tensor:
        """A feature map (n, d, h, w), of tokens without those that belong to no place."""
        if found.dim() == 4:
            return found
        if found.dim() == 3:
            tokens = int(found.shape[1])
            for patch in _PATCHES:
                h, w = image_size[0] // patch, image_size[1] // patch
                prefix = tokens - h * w
                if 0 <= prefix <= _MOST_PREFIX and h * w > prefix:
                    return found[:, prefix:].transpose(1, 2).reshape(found.shape[0], -1, h, w)
        raise BackboneError(
            f"layer {layer}: gives {tuple(found.shape)} for an image of {image_size[1]}x{image_size[0]} pixels; "
            f"expected a feature map (n, d, h, w), or tokens (n, t, d) that fill a grid of patches of {_PATCHES} pixels"
        )

    def _on_grid(self, found: Tensor, grid: tuple[int, int]) -> Tensor:
        if tuple(found.shape[2:]) == grid:
            return found
        if self.fusion == "adaptive":
            return F.adaptive_avg_pool2d(found, grid)
        return F.interpolate(found, grid, mode="bilinear", align_corners=False)

    def _works_at(self, height: int, width: int) -> bool:
        try:
            with torch.inference_mode():
                self.outputs(torch.zeros(2, 3, height, width))
        except Exception:  # whatever a network says of a size that it is not made for
            return False
        return True

    def _exported(self, example: Tensor, free: bool) -> onnx.ModelProto:
        """The network as ONNX writes it, sizes free where it works at others."""
        axes = {0: "n", 2: "h", 3: "w"} if free else {0: "n"}
        written = io.BytesIO()
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter, about itself
            try:
                torch.onnx.export(
                    _Layers(self).eval(),  # the exporter leaves all of it as the outermost module was
                    (example,),
                    written,  # type: ignore[arg-type]
                    input_names=["image"],
                    output_names=list(self.layers),
                    dynamic_axes={"image": axes, **{layer: {0: "n"} for layer in self.layers}},
                    opset_version=_OPSET,
                    dynamo=False,
                )
            except Exception as error:  # its errors have no common class
                raise BackboneError(
                    f"{self.name}: torch.onnx can't export it: {shortened(error, 300)}. Try earlier layers, whose "
                    "operators it may know; a `forward` without branches that depend on the image; for attention "
                    "torch.backends.mha.set_fastpath_enabled(False); or export it yourself and give the .onnx file"
                ) from error
        network: onnx.ModelProto = onnx.load_model_from_string(written.getvalue())
        for output in network.graph.output:
            output.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(network)

    def _require_same(self, network: onnx.ModelProto, example: Tensor, expected: Sequence[Tensor]) -> None:
        engine = open_engine(Graph(network), {"image": tuple(example.shape)}, on=Runtime.of(device="cpu"))
        found = engine({"image": example.numpy()})
        for layer, same in zip(self.layers, expected, strict=True):
            apart = float(np.abs(found[layer] - same.numpy()).max())
            if not apart <= _CLOSE * float(same.abs().max()):
                raise BackboneError(
                    f"{self.name}: exported, layer {layer} differs by {apart:.2g} from what the module gives; does it "
                    "draw random numbers, or depend on the image in its branches? Export it yourself and give the .onnx"
                )


def from_timm(
    model: str, layers: Sequence[str] = (), *, weights: Path | None = None
) -> tuple[FeatureExtractor, tuple[int, int]]:
    """An extractor of a network of the library timm, and the (height, width) that it was trained at.

    Args:
        model: its name there, such as "resnet50.a1_in1k".
        layers: as of `FeatureExtractor`; empty: those of stride 8 and 16, or a transformer's last norm.
        weights: a file of weights; None: timm fetches its own.

    Raises:
        BackboneError: timm isn't installed, or has no such network, or its weights can't be had; or none of its layers
            is one that is usual.
    """
    try:
        timm: Any = import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise BackboneError(
            f"--timm: the library timm can't be imported ({shortened(error, 100)}); pip install timm"
        ) from error
    try:
        given = {} if weights is None else {"checkpoint_path": str(weights)}
        network = timm.create_model(model, pretrained=weights is None, **given)
    except Exception as error:  # of the library, of a hub, of a file of weights
        hint = "with no way to the hub, give a file of its weights: goodparts backbone add NAME FILE --timm MODEL"
        if not timm.is_model(model):
            near = difflib.get_close_matches(model, timm.list_models(), n=4)
            hint = (
                f"the nearest that it has are {', '.join(near)}" if near else "timm.list_models() lists all"
            )
        raise BackboneError(f"timm {model}: can't be made ({shortened(error, 200)}); {hint}") from error
    about = dict(network.pretrained_cfg)
    height, width = about.get("input_size", (3, 224, 224))[1:]
    return FeatureExtractor(
        network,
        tuple(layers) or _usual_layers(network, model),
        mean=tuple(about.get("mean", IMAGENET_MEAN)),
        std=tuple(about.get("std", IMAGENET_STD)),
        name=model,
        source=f"timm {model}",
        licence=about.get("license") or "unknown",
    ), (height, width)


def _usual_layers(network: nn.Module, model: str) -> tuple[str, ...]:
    names = {name for name, _ in network.named_modules()}
    if "norm" in names and "blocks" in names:
        return ("norm",)
    infos = list(getattr(network, "feature_info", ()))
    by_stride = {info["reduction"]: info["module"] for info in infos if info.get("module") in names}
    if {8, 16} <= by_stride.keys():
        return (by_stride[8], by_stride[16])
    raise BackboneError(
        f"timm {model}: says of no layers of stride 8 and 16; name some: --layers {','.join(sorted(names)[1:4])}"
    )


class _Layers(nn.Module):
    """The layers of an extractor as outputs of a module, for the exporter, which drops what they do not need."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.module = extractor.module
        self._extractor = [extractor]  # not a submodule

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(found * 1 for found in self._extractor[0].outputs(images, stop=False))


def _qualified(module: nn.Module, layer: str) -> str:
    """The name of a submodule as `named_modules` has it, from one that may have indices."""
    names = [name for name, _ in module.named_modules() if name]
    if layer in names:
        return layer
    place = ""
    for part in re.findall(r"[^.\[\]]+|\[-?\d+\]", layer):
        if not part.startswith("["):
            place = f"{place}.{part}" if place else part
            continue
        children = (
            [name for name, _ in module.get_submodule(place).named_children()] if place in names else []
        )
        index = int(part[1:-1])
        if not -len(children) <= index < len(children):
            raise BackboneError(
                f"layer {layer}: {place or 'the network'} has {len(children)} parts, none of index {index}"
            )
        place = f"{place}.{children[index]}"
    if place in names:
        return place
    near = difflib.get_close_matches(layer, names, n=4, cutoff=0.4) or names[:4]
    raise BackboneError(
        f"layer {layer}: the network has none of that name; the nearest are {', '.join(near)} (named_modules lists all)"
    )
