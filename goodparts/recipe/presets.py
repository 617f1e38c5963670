"""Presets: recipes by name."""

from __future__ import annotations

from typing import Any

_PLAIN: dict[str, Any] = {
    "banks": "joined",
    "aspect": "as_given",
    "whitening": 0.0,
    "feature_dimensions": 0,
    "score_neighbours": 1,
    "density_neighbours": 0,
    "threshold_rule": "sigma",
}  # features as the backbone gives them, patch distance to the nearest entry

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"image_size": 256, "sampling_limit": 2000},
    "accurate": {"backbone": "efficientnet_lite2"},
    "plain": {**_PLAIN},
    "classic": {
        "backbone": "resnet50",
        "layers": ("layer2", "layer3"),
        "image_size": 224,
        "sampling_ratio": 0.1,
        "sampling_limit": 0,
        "sampling": "random",
        **_PLAIN,
        "pixel_threshold_rule": "pixel_sigma",
        "pixel_threshold_sigma": 3.0,
        "minimum_area": 0,
        "precision": "f32",
    },
    "patchcore": {
        "backbone": "wide_resnet50_2",
        "layers": ("layer2", "layer3"),
        "image_size": 224,
        "sampling_ratio": 0.1,
        "sampling_limit": 0,
        "framing": "crop",
        "resize_size": 256,
        "pooled_dimensions": 1024,
        **_PLAIN,
        "precision": "f32",
    },
    "dino": {
        "backbone": "dinov2_vits14",
        "layers": ("unit",),
        "image_size": 448,
        "patch_size": 1,
        "sampling_ratio": 1.0,
        "sampling_limit": 0,
        "image_score": "top_mean",
        "top_share": 0.01,
        **_PLAIN,
    },
}
"""What each changes of the default."""

ABOUT = {
    "default": "what suits most parts",
    "fast": "half its time",
    "accurate": "a larger network, from pip: goodparts[lite2]",
    "plain": "one bank of all layers, features and distances as they are",
    "classic": "the plain system this project grew from",
    "patchcore": "as the code of the paper's authors (Roth et al., 2022)",
    "dino": "after AnomalyDINO (Damm et al., 2025), for few good images; not measured",
}
"""What each is, in a few words."""
