"""`Recipe`: every setting of an inspector, in one flat, frozen dataclass.

The key `sampling_ratio` is the flag `--sampling-ratio` and the TOML key `sampling_ratio`, without exception.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from goodparts.errors import RecipeError
from goodparts.recipe.presets import PRESETS
from goodparts.recipe.values import _coerce, size_text, tile_size


def _key(default: Any, about: str, *, choices: tuple[str, ...] = (), limits: tuple[float, float] = ()) -> Any:  # type: ignore[assignment]
    return field(default=default, metadata={"about": about, "choices": choices, "limits": limits})


MACHINE = ("precision", "memory_limit")
"""Keys that belong to the machine that learns or inspects, not to the product: no part of a model's identity."""


@dataclass(frozen=True)
class Recipe:
    """How to learn and inspect. Values are checked when it is made; RecipeError names a key that does not fit.

    >>> Recipe(image_size=320, sampling_ratio=0.01).image_size
    (320, 320)
    """

    backbone: str = _key(
        "efficientnet_lite0", "pretrained network: a name, or an .onnx, .safetensors or .pth file"
    )
    layers: tuple[str, ...] = _key(
        (), "its layers to take features from, any tensor of it; empty: those that suit the backbone"
    )
    layer_weights: tuple[float, ...] = _key(
        (),
        "factor of each layer's features before they are joined; empty: alike, or those of the usual layers",
        limits=(1e-6, 1e6),
    )
    grid_layer: str = _key(
        "", "the layer whose cells are the patches; empty: the finest, or that of the usual layers"
    )
    mean: tuple[float, ...] = _key((), "mean of RGB / 255 to subtract; empty: the backbone's own")
    std: tuple[float, ...] = _key(
        (), "standard deviation of RGB / 255 to divide by; empty: the backbone's own"
    )

    image_size: tuple[int, int] = _key(
        (320, 320), "working size in pixels: 224, or WIDTHxHEIGHT", limits=(16, 16384)
    )
    framing: str = _key(
        "stretch",
        "stretch: the whole image; letterbox: the same, aspect kept; crop: the centre of resize_size",
        choices=("stretch", "letterbox", "crop"),
    )
    resize_size: int = _key(256, "crop only: the shorter side before cropping, pixels", limits=(16, 4096))

    pose: str = _key(
        "as_is",
        "shift: parts that lie elsewhere are brought to where good ones lie; rigid: those that are turned, too",
        choices=("as_is", "shift", "rigid"),
    )
    pose_angle: float = _key(
        30.0, "rigid only: the farthest turn that is looked for, degrees", limits=(3, 180)
    )
    pose_failure: str = _key(
        "plain",
        "what becomes of an image whose pose is not found for sure: taken as it is, or RECHECK",
        choices=("plain", "recheck"),
    )

    tiling: str = _key(
        "",
        "look at large images in tiles of image_size: WIDTHxHEIGHT+OVERLAP in pixels of the image, such as 640x640+64; "
        "auto: for the smallest_defect; empty: whole",
    )
    smallest_defect: float = _key(
        0.0, "tiling = auto only: pixels of the image that a defect is across at least", limits=(0, 1e6)
    )
    tile_bank: str = _key(
        "shared",
        "tiling only: one memory bank for all tiles; position: each place has its own, of sampling_limit entries, for "
        "parts that lie the same way",
        choices=("shared", "position"),
    )

    roi: str = _key(
        "",
        "file with the zones to look at: a mask image (nonzero is looked at) or polygons (JSON); empty: everywhere",
    )

    light: str = _key(
        "as_is",
        "colour: light of another colour than on the good images is taken back",
        choices=("as_is", "colour"),
    )

    augment: tuple[str, ...] = _key(
        (),
        "the bank learns from copies of each good image, too: rotate90 (or another step), rotate:15, flip, "
        "flip:vertical, brightness:0.8-1.2, colour:0.15, noise:5",
    )

    patch_size: int = _key(3, "features are averaged over this many cells each way (odd)", limits=(1, 15))
    layer_fusion: str = _key(
        "bilinear",
        "how coarser layers come to the finest grid; adaptive: adaptive average pooling",
        choices=("bilinear", "adaptive"),
    )
    pooled_dimensions: int = _key(
        0, "PatchCore's pooling of the features to this many dimensions; 0: off", limits=(0, 65536)
    )

    whitening: float = _key(
        0.25,
        "principal components of the features are divided by their spread to this power; 0: not at all, 1: fully",
        limits=(0, 1),
    )
    feature_dimensions: int = _key(
        384, "keep at most so many principal components of the features; 0: all", limits=(0, 65536)
    )

    sampling: str = _key(
        "greedy",
        "how the memory bank is chosen: k-center coreset, or at random",
        choices=("greedy", "random"),
    )
    sampling_ratio: float = _key(
        0.1, "share of all patch features, of copies too, that is kept", limits=(1e-6, 1)
    )
    sampling_limit: int = _key(4000, "keep at most this many patch features; 0: no limit", limits=(0, 10**9))
    projection_dimensions: int = _key(
        128, "greedy only: dimensions of the random projection it works in; 0: off", limits=(0, 65536)
    )

    search_dimensions: int = _key(
        192,
        "the bank is searched in so many principal dimensions, in more where that misses entries; 0: in all",
        limits=(0, 65536),
    )

    position_window: float = _key(
        0.0,
        "parts that lie the same way: compare with what lay so near in x and y, pixels of the working image; 0: off",
        limits=(0, 4096),
    )

    score_neighbours: int = _key(
        3, "patch distance: mean of the distances to so many nearest entries of the bank", limits=(1, 16)
    )
    density_neighbours: int = _key(
        9,
        "patch distances are divided by that of a bank entry to so many of its own nearest, on average; 0: not",
        limits=(0, 100),
    )
    density_limit: float = _key(
        1.1,
        "those units are at least their median and at most so many times it; 0, and with a position_window: no limit",
        limits=(0, 1000),
    )

    image_score: str = _key(
        "max",
        "image score from patch distances: largest, PatchCore's equation 7, or mean of the top share",
        choices=("max", "reweighted", "top_mean"),
    )
    reweighting_neighbours: int = _key(9, "reweighted only: b of equation 7", limits=(2, 1000))
    top_share: float = _key(0.01, "top_mean only: share of the patches", limits=(1e-6, 1))
    smoothing_sigma: float = _key(
        4.0, "Gaussian on the anomaly map, pixels of the working image; 0: off", limits=(0, 100)
    )

    threshold_rule: str = _key(
        "sigma",
        "image threshold from held-out good scores; rate, tail: for false_reject_rate; fixed: threshold_value; "
        "f1: oracle on labelled images",
        choices=("sigma", "quantile", "rate", "tail", "fixed", "f1"),
    )
    threshold_sigma: float = _key(3.0, "sigma: mean + this x standard deviation", limits=(-100, 1000))
    threshold_quantile: float = _key(0.99, "quantile: this quantile of the good scores", limits=(0, 1))
    threshold_value: float = _key(0.0, "fixed: the threshold itself", limits=(0, 1e30))

    false_reject_rate: float = _key(
        0.01, "rate, tail: share of good parts that may be rejected", limits=(1e-9, 0.999)
    )
    confidence: float = _key(
        0.95, "that a false-reject rate is kept; of what is printed of it, too", limits=(0.5, 0.999999)
    )
    robust: bool = _key(False, "leave good images out of the bank that look too unlike the rest")
    quality_gate: bool = _key(
        False, "RECHECK instead of a verdict for an image that can't be judged: blurred, dark, another part"
    )

    pixel_threshold_rule: str = _key(
        "peak_sigma",
        "pixel threshold from held-out good maps; peak_: of each map's peak, pixel_: of all pixels",
        choices=("peak_sigma", "peak_quantile", "pixel_sigma", "pixel_quantile", "fixed"),
    )
    pixel_threshold_sigma: float = _key(
        2.0, "peak_sigma, pixel_sigma: mean + this x standard deviation", limits=(-100, 1000)
    )
    pixel_threshold_quantile: float = _key(
        0.995, "peak_quantile, pixel_quantile: this quantile", limits=(0, 1)
    )
    pixel_threshold_value: float = _key(0.0, "fixed: the pixel threshold itself", limits=(0, 1e30))
    minimum_area: int = _key(
        16, "regions of fewer pixels of the inspected image are dropped", limits=(0, 10**9)
    )

    precision: str = _key(
        "auto",
        "what inspections are computed in; auto: bf16 where the processor has it and scores stay within 1 % of f32",
        choices=("auto", "f32", "bf16"),
    )
    memory_limit: float = _key(
        1.0, "GiB of features that fitting keeps in memory; more are kept on disk meanwhile", limits=(0, 1e6)
    )
    seed: int = _key(0, "of every random choice", limits=(0, 2**63 - 1))

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = _coerce(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
        if self.patch_size % 2 == 0:
            raise RecipeError(f"patch_size: expected an odd number, found {self.patch_size}")
        if self.augment:
            from goodparts.recipe.copies import copies  # which needs NumPy

            copies(self.augment)
        if len(set(self.layers)) < len(self.layers):
            raise RecipeError(f"layers: expected distinct names, found {','.join(self.layers)}")
        if self.layer_weights and len(self.layer_weights) != len(self.layers):
            raise RecipeError(
                f"layer_weights: expected one for each of the layers {','.join(self.layers) or '(none named)'}, "
                f"found {len(self.layer_weights)}"
            )
        if self.grid_layer and self.grid_layer not in self.layers:
            raise RecipeError(
                f"grid_layer: expected one of the layers {','.join(self.layers) or '(none named)'}, "
                f"found {self.grid_layer}"
            )
        for name, triple in (("mean", self.mean), ("std", self.std)):
            if triple and len(triple) != 3:
                raise RecipeError(f"{name}: expected three numbers (red, green, blue), found {len(triple)}")
        if any(value <= 0 for value in self.std):
            raise RecipeError(f"std: expected positive numbers, found {self.std}")
        if bool(self.mean) != bool(self.std):
            raise RecipeError("mean, std: give both or neither")
        if self.light != "as_is" and self.framing == "letterbox":
            raise RecipeError(
                f"light: {self.light} measures the whole working image, which framing = letterbox pads; take "
                "framing = stretch or crop, or light = as_is"
            )
        if 0 < self.density_limit < 1:
            raise RecipeError(
                f"density_limit: {self.density_limit:g} would be less than the smallest unit, which is the median; "
                "take 1 or more, or 0 for no limit"
            )
        for rule, key, at_zero in (
            ("threshold_rule", "threshold_value", "every part would be BAD"),
            ("pixel_threshold_rule", "pixel_threshold_value", "all of a BAD image would be marked"),
        ):
            if getattr(self, rule) == "fixed" and getattr(self, key) == 0:
                raise RecipeError(
                    f"{key}: {rule} = fixed takes it as it is, and at 0 {at_zero}; give a value above 0, such as "
                    f"{key} = 1.2, or take another rule"
                )
        self._require_one_way()
        self._require_tiles()
        if self.framing == "crop" and max(self.image_size) > self.resize_size:
            width_height = size_text(self.image_size)
            raise RecipeError(
                f"image_size: the crop {width_height} does not fit into resize_size {self.resize_size}; "
                "raise resize_size or take framing = stretch"
            )

    def _require_tiles(self) -> None:
        """RecipeError where `tiling` can't be read, or does not go with another key."""
        if not self.tiling:
            if self.tile_bank != "shared":
                raise RecipeError(
                    f"tile_bank: {self.tile_bank} is a memory bank for each place of a tile, and tiling is off; say "
                    "how large tiles are, such as tiling = 640x640+64, or take tile_bank = shared"
                )
            if self.smallest_defect:
                raise RecipeError(
                    f"smallest_defect: {self.smallest_defect:g} says how far tiling = auto reduces images, and tiling "
                    "is off; take tiling = auto, or leave out smallest_defect"
                )
            return
        if self.tiling != "auto":
            tile_size(self.tiling)
        elif not self.smallest_defect:
            raise RecipeError(
                "smallest_defect: tiling = auto reduces images as far as it allows; say how many pixels of the image "
                "a defect is across at least, such as smallest_defect = 12"
            )
        if self.framing != "stretch":
            raise RecipeError(
                f"tiling: tiles cover the whole image, so framing = {self.framing} does not go with them; take "
                "framing = stretch, or tiling = '' (off)"
            )
        if self.light != "as_is":
            raise RecipeError(
                f"tiling: a tile does not show the light of the whole image, which light = {self.light} measures; take "
                "light = as_is, or tiling = '' (off)"
            )

    def _require_one_way(self) -> None:
        """That no two keys move patches in ways that do not go together."""
        if self.pose != "as_is" and self.roi:
            raise RecipeError(
                f"roi: zones are drawn on the image and pose = {self.pose} moves it; take pose = as_is, or no roi"
            )
        turned = [kind for kind in self.augment if kind.startswith(("rotate", "flip"))]
        if self.pose != "as_is" and turned:
            raise RecipeError(
                f"augment: {', '.join(turned)} would undo what pose = {self.pose} does; leave out one of the two"
            )
        if self.position_window and turned:
            raise RecipeError(
                f"position_window: {', '.join(turned)} of augment would move patches to other places; leave out one "
                "of the two"
            )
        for key, value, off in (
            ("augment", ", ".join(self.augment), ""),
            ("pose", self.pose, "as_is"),
            ("position_window", f"{self.position_window:g}", "0"),
        ):
            if self.tiling and value != off:
                raise RecipeError(
                    f"tiling: {self.tiling} does not go with {key} = {value}; leave out one of the two"
                )

    @classmethod
    def preset(cls, name: str) -> Self:
        """The preset of that name: one of `PRESETS`."""
        if not isinstance(name, str) or name not in PRESETS:
            raise RecipeError(f"recipe: no preset {name!r}; there are {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    @classmethod
    def load(cls, name_or_file: str | Path, changes: Mapping[str, Any] | None = None) -> Self:
        """A preset by its name, or a TOML file of recipe keys (those it leaves out keep their defaults).

        `changes` are keys that are changed before all of it is checked.
        """
        if str(name_or_file) in PRESETS:
            return cls.preset(str(name_or_file)).replace(changes or {})
        path = Path(name_or_file)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise RecipeError(
                f"recipe: {name_or_file} is neither a file nor a preset ({', '.join(PRESETS)})"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe: {path} can't be read as a TOML file: {error}") from None
        return cls.from_toml(text, changes, source=str(path))

    @classmethod
    def from_toml(
        cls, text: str, changes: Mapping[str, Any] | None = None, *, source: str = "recipe"
    ) -> Self:
        """The recipe that `text` spells, with changes; `source` is named in errors about keys that are not changed.

        Key `recipe` may name a preset to start from.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{source}: not a TOML file: {error}") from None
        start = values.pop("recipe", None)
        try:
            recipe = cls.preset(start) if start is not None else cls()
            return recipe.replace({**values, **(changes or {})})
        except RecipeError as error:
            if str(error).split(":", 1)[0] in (changes or {}):
                raise
            raise RecipeError(f"{source}: {error}") from None

    def replace(self, values: Mapping[str, Any]) -> Self:
        """A copy with these keys changed; an unknown key is an error that names the nearest ones."""
        known = [item.name for item in dataclasses.fields(self)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(known)}"
                raise RecipeError(f"{name}: no such recipe key; {hint}")
        return dataclasses.replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """Keys and values as TOML and JSON take them."""
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "image_size":
                value = value[0] if value[0] == value[1] else size_text(value)
            values[item.name] = list(value) if isinstance(value, tuple) else value
        return values

    @property
    def product(self) -> dict[str, Any]:
        """Keys and values that belong to the product: all but those of the machine that runs it."""
        return {key: value for key, value in self.to_dict().items() if key not in MACHINE}

    def to_toml(self, *, comments: bool = True, machine: bool = True) -> str:
        """This recipe as TOML, each key with a word of explanation; without keys of the machine if so asked."""
        import tomli_w

        lines = []
        for item in dataclasses.fields(self):
            if not machine and item.name in MACHINE:
                continue
            if comments:
                lines.append(f"# {describe(item)}")
            lines.append(tomli_w.dumps({item.name: self.to_dict()[item.name]}).rstrip("\n"))
        return "\n".join(lines) + "\n"


def describe(item: dataclasses.Field[Any]) -> str:
    """What a key means, with its choices."""
    about: str = item.metadata["about"]
    choices = item.metadata["choices"]
    return f"{about} ({', '.join(choices)})" if choices else about
