"""`roi`: check a region of interest before it is learnt with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from goodparts.cli.options import (
    json_option,
    offline_option,
    pixel_limit_option,
)
from goodparts.cli.printing import emit
from goodparts.cli.recipe_flags import RecipeCommand, flag_of, with_recipe
from goodparts.errors import ModelError, OutputError, RecipeError
from goodparts.recipe.keys import KEYS
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.preprocessing.roi import Roi


@click.command(
    name="roi",
    cls=RecipeCommand,
    epilog="Example: goodparts roi zones.json parts/good/000.png --out zones.png",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="ROI|MODEL")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Picture to write. [default: ROI_roi.png]")
@with_recipe
@pixel_limit_option
@offline_option
@json_option
def roi_command(
    file: Path,
    image: Path,
    out: Path | None,
    recipe: Recipe,
    pixel_limit: int | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Draw the region of interest of ROI, a mask or polygons, or of a MODEL on IMAGE, and say what it comes to.

    Everything is checked that `fit --roi ROI` would check. The flags of the recipe matter, since they say how large a
    patch is: give those that you will fit with. A MODEL has its own.
    """
    from goodparts.data.images import PIXEL_LIMIT, read_image
    from goodparts.preprocessing import framing
    from goodparts.report.pictures import save_panel
    from goodparts.report.roi_picture import draw_roi, zone_facts

    path = out or file.with_name(f"{file.stem}_roi.png")
    if path.exists() and any(given.exists() and path.samefile(given) for given in (file, image)):
        raise OutputError(f"{path}: is what was given; expected another name for the picture, with --out")
    pixels = read_image(image, pixel_limit=pixel_limit or PIXEL_LIMIT)
    size = (pixels.shape[0], pixels.shape[1])
    roi, recipe, grid = _read_roi_of(file, recipe, size, offline)
    roi.require_fit(size, image)
    save_panel(path, draw_roi(pixels, roi, recipe, grid))
    patch_mask = roi.patch_mask(recipe, grid)
    facts = zone_facts(roi, recipe, grid)
    share = roi.seen_share(framing.frame_of(size, recipe))
    if as_json:
        emit(
            {
                "picture": str(path),
                "size": [roi.size[1], roi.size[0]],
                "share": share,
                "patches": int(patch_mask.sum()),
                "of_patches": patch_mask.size,
                "zones": [dataclasses.asdict(fact) for fact in facts],
            }
        )
        return
    wide = max(len(fact.name) for fact in facts)
    click.echo(f"{file}: {len(facts)} zone{'s' * (len(facts) > 1)} on {roi.size[1]}x{roi.size[0]} pixels")
    for fact in facts:
        left, top, right, bottom = fact.box
        click.echo(
            f"  {fact.name:{wide}}  {100 * fact.share:5.3g} % of the picture, {fact.patches:5} patches, "
            f"columns {left} to {right}, rows {top} to {bottom}"
        )
    click.echo(
        f"Looked at: {100 * share:.3g} % of the picture, {patch_mask.sum()} of {patch_mask.size} patches\n"
        f"Picture  {path}"
    )


def _read_roi_of(
    file: Path, recipe: Recipe, size: tuple[int, int], offline: bool
) -> tuple[Roi, Recipe, tuple[int, int]]:
    """The region of interest of a file or a model, the recipe that counts, and the grid of its patches."""
    from goodparts.backbones.backbone import cut_down, with_layers
    from goodparts.backbones.catalogue import load_backbone
    from goodparts.decision.calibration import require_zones
    from goodparts.features.extract import backbone_graph, grids_of
    from goodparts.model import file as model_file
    from goodparts.preprocessing.proportions import at_proportion
    from goodparts.preprocessing.roi_file import read_roi
    from goodparts.preprocessing.tiling import plan

    given = click.get_current_context().params
    if file.suffix.lower() == model_file.SUFFIX:
        for name in ("recipe", *KEYS):
            if given[name] is not None:
                raise RecipeError(
                    f"{flag_of(name)}: {file} is a model, which has a recipe of its own; leave out the "
                    "flag, or give the file of the roi instead of the model",
                    key=name,
                )
        loaded = model_file.load(file).preprocessor
        if loaded.roi.everywhere:
            raise ModelError(f"{file}: this model has no region of interest; it looks everywhere")
        return loaded.roi, loaded.image_recipe, loaded.grid
    if given["roi"] is not None:
        raise RecipeError(
            f"--roi: {file} is the region of interest that is checked; leave out --roi", key="roi"
        )
    recipe = recipe.replace({"roi": str(file)})  # which some keys don't go with
    roi = read_roi(file, size)
    backbone = load_backbone(recipe.backbone, offline=offline)
    if recipe.aspect == "images" and not backbone.fixed_size:
        recipe = at_proportion(recipe, [size])
    recipe = with_layers(recipe, backbone)
    tiling = plan(size, recipe, grids_of(backbone_graph(cut_down(backbone, recipe), recipe))[0])
    recipe = tiling.image_recipe(recipe)
    if roi.several:
        require_zones(recipe)
    roi.require_usable(recipe, tiling.grid)
    return roi, recipe, tiling.grid
