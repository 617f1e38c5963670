"""The results folder: everything a person wants to see of an evaluation, written while it runs; and a zip of it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.data.dataset import Dataset, TestSample
from goodparts.decision.inspection import Inspection
from goodparts.evaluation.evaluation import Evaluation
from goodparts.files import replacing, write_text
from goodparts.inspector import Inspector
from goodparts.model.model import Model
from goodparts.progress import Progress, silent
from goodparts.report import pictures
from goodparts.report.card import card
from goodparts.report.page import result_names, write_report
from goodparts.report.panel import draw_panel
from goodparts.report.plots import PLOTS
from goodparts.report.tables import write_csv, write_metrics

PICTURE_FOLDERS = {"panels": ".png", "maps": ".tiff", "masks": ".png"}


def write_results(
    inspector: Inspector,
    data: Dataset,
    out: Path,
    *,
    model_path: Path | None = None,
    zip_all: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a fitted inspector and fill the results folder.

    Panels, maps and masks are drawn and written by the workers that inspect; what an earlier run left of them is
    removed first. Metrics, tables, plots, report and zip follow. The model at `model_path` is saved again where the
    evaluation changed it (the oracle).

    `data` comes from `read_test_set`: a mask of a wrong size ends this only when its image is inspected, after earlier
    pictures are gone.

    Raises:
        OutputError: something can't be written.
        DatasetError, ImageError: as `Inspector.evaluate`.
    """
    from goodparts.report.plots import write_plots

    _clear(out)
    write_text(out / "recipe.toml", inspector.recipe.to_toml())  # by which the next run knows this folder
    names = dict(zip((sample.path for sample in data.test), result_names(data.test), strict=True))

    def observe(
        sample: TestSample, pixels: NDArray[np.uint8], inspection: Inspection, truth: NDArray[np.bool_] | None
    ) -> None:
        write_pictures(
            inspector, out, names[sample.path], pixels, inspection, truth=truth, label=sample.label
        )

    evaluation = inspector.evaluate(data, observe=observe, progress=progress)
    if model_path is not None and inspector.recipe.threshold_rule == "f1":
        inspector.save(model_path)  # the oracle's threshold is known only now
    progress = progress or silent
    progress("report", 0, 3)
    write_metrics(out / "metrics.json", evaluation)
    write_csv(out / "scores.csv", evaluation, root=data.root)
    write_plots(evaluation, out)
    progress("report", 1, 3)
    write_report(out, evaluation, model=facts(inspector.model, evaluation), panels=out / "panels")
    progress("report", 2, 3)
    write_zip(out, everything=zip_all)
    progress("report", 3, 3)
    return evaluation


def write_zip(out: Path, *, everything: bool = False) -> Path:
    """Pack the results folder into `results.zip` inside it; the same files give the same bytes.

    Args:
        out: the results folder.
        everything: also pack the anomaly maps and the model, which are large.

    Returns:
        the path of the zip file.

    Raises:
        OutputError: the file can't be written.
    """
    names = ["report.html", "metrics.json", "scores.csv", "recipe.toml", *PLOTS]
    patterns = [*names, "panels/**/*", "masks/**/*"]
    if everything:
        patterns += ["maps/**/*", "*.goodparts"]
    members = sorted(
        {
            path
            for pattern in patterns
            for path in out.glob(pattern)
            if path.is_file() and not path.name.startswith(".")
        }
    )
    target = out / "results.zip"
    with replacing(target) as stream, zipfile.ZipFile(stream, "w") as archive:
        for path in members:
            _pack(archive, path, path.relative_to(out).as_posix())
    return target


def write_pictures(
    inspector: Inspector,
    out: Path,
    name: str,
    pixels: NDArray[np.uint8],
    inspection: Inspection,
    *,
    truth: NDArray[np.bool_] | None = None,
    label: bool | None = None,
) -> None:
    """Write panel, map and mask of one inspection as `panels/NAME.png`, `maps/NAME.tiff` and `masks/NAME.png`."""
    decision = inspector.model.calibration
    scale = pictures.heatmap_scale(decision.pixel_threshold, decision.typical_pixel)
    panel = draw_panel(pixels, inspection, truth, scale=scale, title=name, label=label)
    pictures.save_panel(out / "panels" / f"{name}.png", panel)
    pictures.save_map(out / "maps" / f"{name}.tiff", inspection.anomaly_map)
    pictures.save_mask(out / "masks" / f"{name}.png", inspection.mask)


def facts(model: Model, evaluation: Evaluation) -> dict[str, object]:
    """What the report says of a model."""
    backbone, bank = model.backbone, model.bank
    seconds = model.fit_record.seconds
    return {
        "name": evaluation.name,
        "identity": model.identity,
        "version": model.fit_record.versions["goodparts"],
        "backbone": f"{backbone.name}, layers {', '.join(model.recipe.layers)}",
        "backbone_sha256": backbone.sha256,
        "backbone_licence": backbone.licence,
        "backbone_source": backbone.source,
        "training_images": model.provenance.good_images,
        "bank_size": len(bank.features),
        "bank_dimensions": bank.features.shape[1],
        "fit_seconds": sum(seconds.values()),
        "inspect_ms": 1000 * evaluation.inspect_seconds / len(evaluation.images),
        "share_not_looked_at": evaluation.metrics["not_looked_share"],
        "recipe": model.recipe.to_toml(comments=False),
        "card": card(model),
    }


def _clear(out: Path) -> None:
    """Remove the pictures of an earlier run, and only those."""
    if not (out / "recipe.toml").is_file():
        return
    for folder, suffix in PICTURE_FOLDERS.items():
        for path in (out / folder).glob(f"*/*{suffix}"):
            path.unlink(missing_ok=True)
        for path in sorted((out / folder).glob("*/")):
            if not any(path.iterdir()):
                path.rmdir()


def _pack(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Add a file to an archive: always the same date and rights, and not compressed a second time."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    packed_already = path.suffix.lower() in (".png", ".goodparts")
    member.compress_type = zipfile.ZIP_STORED if packed_already else zipfile.ZIP_DEFLATED
    member.create_system, member.external_attr = 3, 0o644 << 16  # as on Linux, wherever it is written
    member.file_size = path.stat().st_size  # lets the archive choose the large format where it is needed
    with path.open("rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)
