"""`Keys`: the keys of a recipe by section, each with its default, its meaning and its limits.

The key `sampling_ratio` is the flag `--sampling-ratio` and the TOML key `sampling_ratio`, without exception.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Section:
    """Keys that belong together.

    Attributes:
        title: as it is printed above them.
        about: what they are about, in a line.
    """

    title: str
    about: str


BACKBONE = Section("backbone", "the pretrained network, and the patch features that are made of its layers")
IMAGE = Section("image", "how an image comes to the network: its size, its light, how the part lies")
REGION = Section("region and tiles", "where to look, and how closely")
BANK = Section("memory bank", "what is kept of the good images")
SCORE = Section("patch score", "how far a patch, and with it an image, is from what good ones look like")
DECISION = Section("decision", "from scores to GOOD and BAD, and from anomaly maps to regions")
MACHINE = Section("machine", "what suits the computer, not the product: no part of a model's identity")
SECTIONS = (BACKBONE, IMAGE, REGION, BANK, SCORE, DECISION, MACHINE)


def _key(
    section: Section,
    default: Any,
    about: str,
    *,
    choices: tuple[str, ...] = (),
    limits: tuple[float, float] | tuple[()] = (),
    common: bool = False,
    before: Any = None,
) -> Any:
    """A key. `about` names each of the choices.

    `common`: one of the dozen that people touch first. `before`: what models are like from before the key came, whose
    identity must stay what it was; None: there are none.
    """
    about_it = {
        "section": section,
        "about": about,
        "choices": choices,
        "limits": limits,
        "common": common,
        "before": before,
    }
    return field(default=default, metadata=about_it)


@dataclass(frozen=True)
class Keys:
    """All keys of a recipe, flat; `Recipe` adds how they are checked, read and written."""

    backbone: str = _key(
        BACKBONE,
        "efficientnet_lite0",
        "Pretrained network: a name, or an .onnx, .safetensors or .pth file.",
        common=True,
    )
    layers: tuple[str, ...] = _key(
        BACKBONE,
        (),
        "Its layers to take features from, any tensor of it; empty: those that suit the backbone.",
    )
    layer_weights: tuple[float, ...] = _key(
        BACKBONE,
        (),
        "Factor of each layer's features before they are joined; empty: alike, or those of the usual layers.",
        limits=(1e-6, 1e6),
    )
    grid_layer: str = _key(
        BACKBONE, "", "The layer whose cells are the patches; empty: the finest, or that of the usual layers."
    )
    mean: tuple[float, ...] = _key(BACKBONE, (), "Mean of RGB / 255 to subtract; empty: the backbone's own.")
    std: tuple[float, ...] = _key(
        BACKBONE, (), "Standard deviation of RGB / 255 to divide by; empty: the backbone's own."
    )
    banks: str = _key(
        BACKBONE,
        "auto",
        "by_depth: fine and coarse layers have a memory bank each, and a patch is as far from good ones as the most "
        "telling of them says; joined: one bank of all layers on the finest grid, as PatchCore has it; auto: by_depth "
        "from 40 good images on.",
        choices=("auto", "by_depth", "joined"),
        before="joined",
    )
    layer_fusion: str = _key(
        BACKBONE,
        "bilinear",
        "How coarser layers come to the finest grid: bilinear, or adaptive average pooling.",
        choices=("bilinear", "adaptive"),
    )
    patch_size: int = _key(
        BACKBONE, 3, "Features are averaged over this many cells each way (odd).", limits=(1, 15)
    )
    pooled_dimensions: int = _key(
        BACKBONE, 0, "PatchCore's pooling of the features to this many dimensions; 0: off.", limits=(0, 65536)
    )
    whitening: float = _key(
        BACKBONE,
        0.25,
        "Principal components of the features are divided by their spread to this power; 0: not, 1: fully.",
        limits=(0, 1),
    )
    feature_dimensions: int = _key(
        BACKBONE, 384, "Keep at most so many principal components of the features; 0: all.", limits=(0, 65536)
    )

    image_size: tuple[int, int] = _key(
        IMAGE, (320, 320), "Working size in pixels: 224, or WIDTHxHEIGHT.", limits=(16, 16384), common=True
    )
    aspect: str = _key(
        IMAGE,
        "images",
        "images: a square image_size takes the proportions of the good images, with as many pixels; as_given: not. "
        "For framing = stretch without tiles.",
        choices=("images", "as_given"),
        before="as_given",
    )
    framing: str = _key(
        IMAGE,
        "stretch",
        "stretch: the whole image; letterbox: the same, aspect kept; crop: the centre of resize_size.",
        choices=("stretch", "letterbox", "crop"),
    )
    resize_size: int = _key(
        IMAGE, 256, "crop only: the shorter side before cropping, pixels.", limits=(16, 4096)
    )
    bit_depth: int = _key(
        IMAGE,
        0,
        "How many bits of 16-bit images are in use, 8 to 16; cameras of 10 or 12 bits leave the others 0. 0: learnt "
        "from the good images.",
        limits=(0, 16),
        before=0,
    )
    light: str = _key(
        IMAGE,
        "as_is",
        "as_is; colour: light of another colour than on the good images is taken back.",
        choices=("as_is", "colour"),
    )
    pose: str = _key(
        IMAGE,
        "as_is",
        "as_is; shift: parts that lie elsewhere are brought to where good ones lie; rigid: turned ones, too.",
        choices=("as_is", "shift", "rigid"),
        common=True,
    )
    pose_angle: float = _key(
        IMAGE, 30.0, "rigid only: the farthest turn that is looked for, degrees.", limits=(3, 180)
    )
    pose_failure: str = _key(
        IMAGE,
        "plain",
        "An image whose pose is not found for sure: plain takes it as it is, recheck makes it a RECHECK.",
        choices=("plain", "recheck"),
    )

    roi: str = _key(
        REGION,
        "",
        "Zones to look at: a mask image (nonzero is looked at) or polygons (JSON); empty: everywhere.",
        common=True,
    )
    tiling: str = _key(
        REGION,
        "",
        "Look at large images in tiles: WIDTHxHEIGHT+OVERLAP in their pixels, such as 640x640+64; auto: as the "
        "smallest_defect allows; empty: whole.",
        common=True,
    )
    smallest_defect: float = _key(
        REGION,
        0.0,
        "tiling = auto only: pixels of the image that a defect is across at least.",
        limits=(0, 1e6),
        common=True,
    )
    tile_bank: str = _key(
        REGION,
        "shared",
        "tiling only: shared: one memory bank for all tiles; position: each place has its own, of sampling_limit "
        "entries, for parts that lie the same way.",
        choices=("shared", "position"),
    )

    augment: tuple[str, ...] = _key(
        BANK,
        (),
        "Learn from copies, too: rotate90 (or another step), rotate:15, flip, flip:vertical, brightness:0.8-1.2, "
        "colour:0.15, noise:5.",
        common=True,
    )
    sampling: str = _key(
        BANK,
        "greedy",
        "How the bank is chosen: greedy (k-center coreset) or random.",
        choices=("greedy", "random"),
    )
    sampling_ratio: float = _key(
        BANK, 0.1, "Share of all patch features, of copies too, that is kept.", limits=(1e-6, 1)
    )
    sampling_limit: int = _key(
        BANK, 4000, "Keep at most this many patch features; 0: no limit.", limits=(0, 10**9), common=True
    )
    projection_dimensions: int = _key(
        BANK, 128, "greedy only: dimensions of the random projection it works in; 0: off.", limits=(0, 65536)
    )
    robust: bool = _key(BANK, False, "Leave good images out of the bank that look too unlike the rest.")
    seed: int = _key(BANK, 0, "Seed of every random choice.", limits=(0, 2**63 - 1))

    position_window: float = _key(
        SCORE,
        0.0,
        "For parts that lie the same way: compare with what lay so near in x and y, pixels of the working image; "
        "0: off.",
        limits=(0, 4096),
        common=True,
    )
    search_dimensions: int = _key(
        SCORE,
        192,
        "The bank is searched in so many principal dimensions, in more where that misses entries; 0: in all.",
        limits=(0, 65536),
    )
    score_neighbours: int = _key(
        SCORE,
        3,
        "Patch distance: mean of the distances to so many nearest entries of the bank.",
        limits=(1, 16),
    )
    density_neighbours: int = _key(
        SCORE,
        9,
        "Patch distances are divided by that of a bank entry to so many of its own nearest, on average; 0: not.",
        limits=(0, 100),
    )
    density_limit: float = _key(
        SCORE,
        1.1,
        "Those units are at least their median and at most so many times it; 0, and with a position_window: no "
        "limit.",
        limits=(0, 1000),
    )
    image_score: str = _key(
        SCORE,
        "max",
        "Image score from patch distances: max, reweighted (PatchCore's equation 7), or top_mean, the mean of "
        "the top_share.",
        choices=("max", "reweighted", "top_mean"),
    )
    reweighting_neighbours: int = _key(SCORE, 9, "reweighted only: b of equation 7.", limits=(2, 1000))
    top_share: float = _key(SCORE, 0.01, "top_mean only: share of the patches.", limits=(1e-6, 1))
    smoothing_sigma: float = _key(
        SCORE, 4.0, "Gaussian on the anomaly map, pixels of the working image; 0: off.", limits=(0, 100)
    )

    threshold_rule: str = _key(
        DECISION,
        "robust_sigma",
        "From held-out good scores: robust_sigma, sigma, quantile, rate or tail; fixed: threshold_value; f1: an "
        "oracle, by labelled images.",
        choices=("robust_sigma", "sigma", "quantile", "rate", "tail", "fixed", "f1"),
        common=True,
    )
    threshold_sigma: float = _key(
        DECISION,
        3.0,
        "sigma: mean + this x standard deviation; robust_sigma: median + this x robust standard deviation.",
        limits=(-100, 1000),
        common=True,
    )
    threshold_quantile: float = _key(
        DECISION, 0.99, "quantile: this quantile of the good scores.", limits=(0, 1)
    )
    threshold_value: float = _key(DECISION, 0.0, "fixed: the threshold itself.", limits=(0, 1e30))
    false_reject_rate: float = _key(
        DECISION,
        0.01,
        "rate, tail: share of good parts that may be rejected.",
        limits=(1e-9, 0.999),
        common=True,
    )
    confidence: float = _key(
        DECISION,
        0.95,
        "Confidence that a false-reject rate is kept; of what is printed of it, too.",
        limits=(0.5, 0.999999),
    )
    quality_gate: bool = _key(
        DECISION,
        False,
        "RECHECK where an image can't be judged: blurred, dark, another part.",
        common=True,
    )
    pixel_threshold_rule: str = _key(
        DECISION,
        "peak_sigma",
        "Pixel threshold from held-out good maps: peak_sigma or peak_quantile of each map's peak, pixel_sigma or "
        "pixel_quantile of all pixels; fixed: pixel_threshold_value.",
        choices=("peak_sigma", "peak_quantile", "pixel_sigma", "pixel_quantile", "fixed"),
    )
    pixel_threshold_sigma: float = _key(
        DECISION, 2.0, "peak_sigma, pixel_sigma: mean + this x standard deviation.", limits=(-100, 1000)
    )
    pixel_threshold_quantile: float = _key(
        DECISION, 0.995, "peak_quantile, pixel_quantile: this quantile.", limits=(0, 1)
    )
    pixel_threshold_value: float = _key(DECISION, 0.0, "fixed: the pixel threshold itself.", limits=(0, 1e30))
    minimum_area: int = _key(
        DECISION, 16, "Regions of fewer pixels of the inspected image are dropped.", limits=(0, 10**9)
    )

    precision: str = _key(
        MACHINE,
        "auto",
        "What inspections are computed in: f32, bf16, or auto: bf16 where the processor has it and scores stay "
        "within 1 % of f32.",
        choices=("auto", "f32", "bf16"),
    )
    memory_limit: float = _key(
        MACHINE,
        1.0,
        "GiB of features that fitting keeps in memory; more are kept on disk meanwhile.",
        limits=(0, 1e6),
    )


KEYS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(Keys)}
"""Every key by its name, in the order of the sections. Its metadata: section, about, choices, limits,
common, before."""


def keys_of(section: Section) -> list[dataclasses.Field[Any]]:
    """The keys of a section."""
    return [item for item in KEYS.values() if item.metadata["section"] is section]
