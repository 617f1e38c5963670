"""Where the targets are, by the name that the command line gives them."""

TARGETS = {
    "images": "fuzz.images:TARGET",
    "models": "fuzz.models:TARGET",
    "backbones": "fuzz.backbones:TARGET",
    "recipes": "fuzz.recipes:TARGET",
    "zones": "fuzz.zones:TARGET",
}
