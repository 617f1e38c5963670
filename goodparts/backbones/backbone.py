"""`Backbone`: a frozen, pretrained network whose named layers give feature maps, read from a file.

A backbone is an ONNX graph with what has to be known to feed it. It comes from an `.onnx` file (any tensor
can be a layer), or is built from the parameters of a ResNet, EfficientNet-Lite or vision transformer (`.safetensors`,
`.pth`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from goodparts.backbones.store import sha256_of
from goodparts.errors import BackboneError, quoted, shortened
from goodparts.files import JsonRecord
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    import onnx

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
USUAL_LAYERS: tuple[dict[str, Any], ...] = (  # as recipe keys
    {"layers": ("layer2", "layer3")},  # of ResNets (Roth et al. 2022)
    {  # of EfficientNet-Lite, by measurement (docs/presets.md)
        "layers": ("stage2", "stage3", "stage5", "stage6"),
        "layer_weights": (1.5, 1.0, 1.0, 1.0),
        "grid_layer": "stage3",
        "banks": "by_depth",  # or whatever is not joined
    },
    {
        "layers": ("stage2", "stage3", "stage5"),
        "layer_weights": (1.5, 1.0, 0.7),
        "grid_layer": "stage3",
    },
    {"layers": ("norm",)},  # of vision transformers (Damm et al. 2025)
)
SUFFIXES = (".onnx", ".safetensors", ".pth", ".pt")
SAFETENSORS_TYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "bfloat16",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen, pretrained network and what has to be known to feed it.

    Attributes:
        name: registered name ("resnet50") or the stem of the file.
        model: the network; one input, float32 (n, 3, h, w), normalised RGB; opset 18 or later. Sizes that the
            file fixes are still fixed here: `trim` frees them where the layers asked for allow it.
        input_name: name of that input.
        mean: of RGB / 255; the network sees (RGB / 255 - mean) / std.
        std: of RGB / 255.
        normalisation: where mean and std come from: "metadata" of the file; "published" with the weights;
            "ImageNet assumed" or "EfficientNet-Lite assumed" because the file does not say.
        source: file name, hub repository and revision, or package.
        licence: of the weights, "unknown" where nobody said.
        sha256: of the file it was read from.
        short_names: the layers that whoever kept it chose, to offer first.
    """

    name: str
    model: onnx.ModelProto
    input_name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalisation: str
    source: str
    licence: str
    sha256: str
    short_names: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """Such as "resnet50"; "unknown" where the file does not say."""
        return _metadata(self.model).get("architecture", "unknown")

    @property
    def fixed_size(self) -> bool:
        """Whether it takes images of one size only."""
        given = next(item for item in self.model.graph.input if item.name == self.input_name)
        return any(size.dim_value for size in given.type.tensor_type.shape.dim[2:])

    def layers(self) -> list[str]:
        """Names of the tensors that can serve as layers: short names, then outputs, then inner tensors.

        Left out are constants and whatever is not known to be a feature map (n, d, h, w) or a sequence of
        tokens (n, tokens, d), in float32.
        """
        from goodparts.backbones.onnx_file import feature_tensors

        available = feature_tensors(self.model, self.input_name)
        outputs = (output.name for output in self.model.graph.output)
        first = [name for name in (*self.short_names, *outputs) if name in available]
        return list(dict.fromkeys((*first, *available)))

    def usual_layers(self, banks: str) -> JsonRecord:
        """The layers that suit it with such `banks`, as recipe keys: layers, and perhaps layer_weights and grid_layer.

        Those it was kept with, else the usual ones of a known architecture, else its outputs.

        Raises:
            BackboneError: none of these can serve as layers.
        """
        available = self.layers()
        for keys in ({"layers": self.short_names}, *USUAL_LAYERS):
            suits = "banks" not in keys or banks != "joined"
            if suits and keys["layers"] and set(keys["layers"]) <= set(available):
                return keys
        outputs = tuple(output.name for output in self.model.graph.output if output.name in available)
        if outputs:
            return {"layers": outputs}
        raise BackboneError(
            f"layers: {self.name} has none that suit without being named; choose among {_some(available)}"
        )


class MakesBackbone(Protocol):
    """What makes a backbone of a network that somebody brings, such as `goodparts.torch.FeatureExtractor`."""

    name: str
    layers: tuple[str, ...]

    def to_backbone(self, image_size: tuple[int, int]) -> Backbone:
        """The backbone for images of (height, width); BackboneError if it can't be made."""
        ...


def is_path(name: str) -> bool:
    """Whether `name` means a file rather than a registered name."""
    return name.lower().endswith(SUFFIXES) or "/" in name or "\\" in name


def read_backbone(path: Path) -> Backbone:
    """Read a backbone from a file, by its suffix.

    Raises:
        BackboneError: the file is missing, of an unknown kind or holds no usable network.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BackboneError(f"{path}: expected a file that ends in one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BackboneError(f"{path}: there is no such file; expected a backbone")
    return _read_onnx(path) if suffix == ".onnx" else read_parameters(path)


def trim(backbone: Backbone, layers: Sequence[str]) -> onnx.ModelProto:
    """Cut a backbone down to what some of its layers need.

    The graph keeps only the nodes and initializers that the layers depend on, and its outputs are the layers
    in the order given. Sizes that the file fixed are made symbolic ("n", "h", "w") where what is left works
    at other sizes; where it does not, the input of the result still says which size it takes.

    Raises:
        BackboneError: a layer is missing, named twice or does not depend on the image.
    """
    from goodparts.backbones.onnx_file import feature_tensors, free_sizes, tensor_names, trim_graph

    if not layers:
        raise BackboneError(f"backbone {backbone.name}: no layers given; it has {_some(backbone.layers())}")
    if len(set(layers)) < len(layers):
        raise BackboneError(f"backbone {backbone.name}: layers named twice in {', '.join(layers)}")
    available = feature_tensors(backbone.model, backbone.input_name)
    for layer in layers:
        if layer not in available:
            nearest = get_close_matches(layer, available, n=3, cutoff=0.5)
            hint = (
                f"the nearest are {', '.join(map(shortened, nearest))}"
                if nearest
                else f"it has {_some(backbone.layers())}"
            )
            if layer in tensor_names(backbone.model):
                hint = (
                    "there is a tensor of that name, but it is not known to be a feature map (n, d, h, w) or "
                    f"a sequence of tokens (n, tokens, d), float32 and computed from the image; {hint}"
                )
            raise BackboneError(f"backbone {backbone.name} has no layer {quoted(layer)}; {hint}")
    return free_sizes(trim_graph(backbone.model, backbone.input_name, layers), backbone.input_name)


def _read_onnx(path: Path) -> Backbone:
    from goodparts.backbones.onnx_file import image_input, read_onnx, require_modest

    model = read_onnx(path)
    metadata = _metadata(model)
    mean, std, normalisation = _normalisation(metadata, path)
    input_name = image_input(model, path)
    try:
        require_modest(model, input_name)
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from None
    return Backbone(
        name=path.stem,
        model=model,
        input_name=input_name,
        mean=mean,
        std=std,
        normalisation=normalisation,
        source=": ".join(filter(None, (path.name, metadata.get("source")))),
        licence=metadata.get("licence") or metadata.get("license") or "unknown",
        sha256=sha256_of(path),
    )


def _normalisation(
    metadata: Mapping[str, str], path: Path
) -> tuple[tuple[float, float, float], tuple[float, float, float], str]:
    """Mean and std of RGB / 255 from the metadata of an ONNX file: keys mean, std, range and color."""
    if metadata.get("color", "RGB").upper() != "RGB":
        raise BackboneError(
            f"{path}: its metadata says color = {quoted(metadata['color'])}; expected RGB, so export the network "
            "with an input that takes RGB"
        )
    if not metadata.keys() & {"mean", "std", "range"}:
        return IMAGENET_MEAN, IMAGENET_STD, "ImageNet assumed"
    scales = {"0..1": 1.0, "0..255": 255.0}
    value_range = metadata.get("range", "0..1").replace(" ", "")
    if value_range not in scales:
        raise BackboneError(
            f"{path}: its metadata says range = {quoted(value_range)}; expected '0..1' or '0..255'"
        )
    mean, std = (_three_numbers(metadata, key, path) for key in ("mean", "std"))
    if min(std) <= 0:
        raise BackboneError(
            f"{path}: its metadata says std = {quoted(metadata['std'])}; expected numbers above 0"
        )
    scale = scales[value_range]
    return (
        (mean[0] / scale, mean[1] / scale, mean[2] / scale),
        (std[0] / scale, std[1] / scale, std[2] / scale),
        "metadata",
    )


def _three_numbers(metadata: Mapping[str, str], key: str, path: Path) -> tuple[float, float, float]:
    text = metadata.get(key, "")
    try:
        red, green, blue = (float(part) for part in re.split(r"[\s,]+", text.strip(" \t[]()")))
        if not all(map(isfinite, (red, green, blue))):
            raise ValueError("not finite")
    except ValueError:
        raise BackboneError(
            f"{path}: its metadata says {key} = {quoted(text)}; expected three numbers such as '0.485,0.456,0.406'"
        ) from None
    return red, green, blue


def read_parameters(path: Path) -> Backbone:
    """Build the network whose parameters a file holds: a ResNet, an EfficientNet-Lite or a vision transformer.

    Raises:
        BackboneError: not readable, or of another network.
    """
    from goodparts.backbones import efficientnet
    from goodparts.backbones.resnet import build_resnet, is_resnet
    from goodparts.backbones.torch_file import read_state_dict
    from goodparts.backbones.vision_transformer import build_vision_transformer, is_vision_transformer

    state = read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_state_dict(path)
    mean, std, normalisation = IMAGENET_MEAN, IMAGENET_STD, "ImageNet assumed"
    try:
        if is_resnet(state):
            model = build_resnet(state)
        elif efficientnet.is_efficientnet_lite(state):
            model = efficientnet.build_efficientnet_lite(state)
            mean, std, normalisation = efficientnet.MEAN, efficientnet.STD, "EfficientNet-Lite assumed"
        elif is_vision_transformer(state):
            model = build_vision_transformer(state)
        else:
            some = ", ".join(map(shortened, list(state)[:3])) or "no parameters"
            raise BackboneError(
                f"holds no ResNet, EfficientNet-Lite or vision transformer ({some}, ...); export the network to ONNX"
            )
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from None
    return Backbone(
        name=path.stem,
        model=model,
        input_name=model.graph.input[0].name,
        mean=mean,
        std=std,
        normalisation=normalisation,
        source=path.name,
        licence="unknown",
        sha256=sha256_of(path),
    )


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read the parameters in a `.safetensors` file.

    Returns:
        Read-only arrays by name, of the type stored; bfloat16 becomes float32.
    """
    import safetensors

    from goodparts.backbones.torch_file import stored_elements

    try:
        stored: list[tuple[str, Any]] = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise BackboneError(
            f"{path}: can't be read as a safetensors file: {shortened(error, 200)}"
        ) from error
    arrays = {}
    for name, tensor in stored:
        kind = SAFETENSORS_TYPES.get(tensor["dtype"])
        if kind is None:
            known = ", ".join(SAFETENSORS_TYPES)
            raise BackboneError(
                f"{path}: parameter {shortened(name)} is of type {tensor['dtype']}; expected one of {known}"
            )
        arrays[name] = stored_elements(bytes(tensor["data"]), kind, "<").reshape(tensor["shape"])
    return arrays


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _some(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(map(shortened, names[:limit])) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )


def with_layers(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with the layers that suit the backbone, where it names none."""
    return recipe if recipe.layers else recipe.replace(backbone.usual_layers(recipe.banks))


def cut_down(backbone: Backbone, recipe: Recipe) -> Backbone:
    """The backbone cut down to the recipe's layers, with the recipe's normalisation if it has one."""
    trimmed = replace(backbone, model=trim(backbone, recipe.layers))
    if not recipe.mean:
        return trimmed
    mean, std = (
        (recipe.mean[0], recipe.mean[1], recipe.mean[2]),
        (recipe.std[0], recipe.std[1], recipe.std[2]),
    )
    return replace(trimmed, mean=mean, std=std, normalisation="recipe")
