"""The results folder: everything a person wants to see of an evaluation, and a zip of it.

It is made beside and put in place when it is whole, so that an interrupt or an error leaves what an earlier run made
as it was. `results.json` lists what this program has put there: nothing else is ever replaced or removed.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from goodparts.data.dataset import Dataset, TestSample
from goodparts.decision.inspection import Inspection
from goodparts.errors import OutputError
from goodparts.evaluation.evaluation import Evaluation
from goodparts.files import output_error, replacing, staging, swap, write_text
from goodparts.inspector import Inspector
from goodparts.model.model import Model
from goodparts.progress import Progress, silent
from goodparts.report import pictures
from goodparts.report.card import card, describe_banks
from goodparts.report.page import result_names, write_report
from goodparts.report.panel import draw_panel
from goodparts.report.picture_files import PICTURE_FOLDERS, clean_name, is_result, picture_paths
from goodparts.report.plots import PLOTS
from goodparts.report.tables import write_csv, write_metrics
from goodparts.version import __version__

MANIFEST = "results.json"
_FILES = ("report.html", "metrics.json", "scores.csv", "recipe.toml", *PLOTS)
_ZIP = "results.zip"


def write_results(
    inspector: Inspector,
    data: Dataset,
    out: Path,
    *,
    model_path: Path | None = None,
    saved: Path | None = None,
    zip_all: bool = False,
    unwritten: Callable[[OutputError], object] | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a fitted inspector and fill the results folder.

    Panels, maps and masks are drawn and written by the workers that inspect. Metrics, tables, plots, report and zip
    follow. Then all of it takes its place at once, and what an earlier run listed goes.

    Args:
        inspector: whose threshold is decided.
        data: from `read_test_set`: a mask of a wrong size ends this only when its image is inspected.
        out: the results folder.
        model_path: of the inspector's model, which is saved again with what the evaluation measured.
        saved: where it has been saved until the results are whole; see `place_of_model`.
        zip_all: also pack anomaly maps and models.
        unwritten: called, in a worker, for every image whose pictures can't be written; without it that ends all.
        notes: what is to be known of the data set, for the report.
        progress: called with (stage, done, total).

    Raises:
        OutputError: something can't be written, or lies in the way.
        DatasetError, ImageError: as `Inspector.evaluate`.
    """
    from goodparts.report.plots import write_plots

    check_place(out, data)
    saved = saved or model_path
    names = dict(zip((sample.path for sample in data.test), result_names(data.test), strict=True))
    with staging(out) as inside:
        new, held = inside / "new", inside / "held"

        def observe(
            sample: TestSample,
            pixels: NDArray[np.uint8],
            inspection: Inspection,
            truth: NDArray[np.bool_] | None,
        ) -> None:
            try:
                write_pictures(
                    inspector, new, names[sample.path], pixels, inspection, truth=truth, label=sample.label
                )
            except OutputError as error:
                if unwritten is None:
                    raise
                unwritten(error)

        write_text(new / "recipe.toml", inspector.recipe.to_toml())
        evaluation = inspector.evaluate(data, observe=observe, progress=progress)
        if saved is not None:
            inspector.save(saved)  # with what was measured, and an oracle's threshold, known only now
        progress = progress or silent
        progress("report", 0, 3)
        write_metrics(new / "metrics.json", evaluation, inspector.computed_by)
        write_csv(new / "scores.csv", evaluation, root=data.root)
        write_plots(evaluation, new)
        progress("report", 1, 3)
        described = facts(inspector.model, evaluation)
        write_report(new, evaluation, model=described, panels=new / "panels", notes=notes)
        progress("report", 2, 3)
        models = {path.name: path for path in _models(out)} if zip_all else {}
        if zip_all and model_path is not None and saved is not None:
            models.pop(saved.name, None)
            models[model_path.name] = saved
        write_zip(new, everything=zip_all, models=models)
        moved = [] if saved is None or model_path is None or saved == model_path else [(saved, model_path)]
        _put_in_place(new, out, held, moved, identity=inspector.model.identity)
        progress("report", 3, 3)
    return evaluation


def place_of_model(model_path: Path, out: Path) -> Path:
    """Where to save a model until its results are whole: beside, where there is an earlier one or earlier results."""
    if not model_path.exists() and not _listed(out):
        return model_path
    return model_path.with_name(f"{clean_name(model_path.stem, 200)}.new{model_path.suffix}")


def check_place(out: Path, data: Dataset) -> None:
    """See, before any work, that results can be put into a folder without taking the place of anything else.

    Raises:
        OutputError: a file that no earlier run wrote, or a folder, has the name of a result.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(
            f"{out}: can't be written, since it is a file; expected a folder, or a name not in use"
        )
    for folder in PICTURE_FOLDERS:
        if (out / folder).exists() and not (out / folder).is_dir():
            raise OutputError(f"{out / folder}: can't be written; something else has that name; move it away")
    listed = _listed(out)
    pictures_to_be = (path for name in result_names(data.test) for path in picture_paths(out, name).values())
    for path in (*(out / name for name in (*_FILES, _ZIP, MANIFEST)), *pictures_to_be):
        if path in listed or not os.path.lexists(path):
            continue
        if path.is_dir() or not is_result(path):
            raise OutputError(
                f"{path}: is there already, and no earlier run wrote it; move it away, or choose another folder "
                "with --out"
            )


def write_zip(out: Path, *, everything: bool = False, models: Mapping[str, Path] | None = None) -> Path:
    """Pack the results folder into `results.zip` inside it; the same files give the same bytes.

    Args:
        out: the results folder.
        everything: also pack the anomaly maps and the models, which are large.
        models: by name, those to pack; by default what the folder holds.

    Returns:
        the path of the zip file.

    Raises:
        OutputError: the file can't be written.
    """
    patterns = [*_FILES, "panels/**/*", "masks/**/*", *(["maps/**/*"] if everything else [])]
    members = {
        path.relative_to(out).as_posix(): path
        for pattern in patterns
        for path in out.glob(pattern)
        if path.is_file() and not path.name.startswith(".")
    }
    if everything:
        members |= models if models is not None else {path.name: path for path in _models(out)}
    target = out / _ZIP
    with replacing(target) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, path in sorted(members.items()):
            _pack(archive, path, "/".join(clean_name(part, 255) for part in name.split("/")))
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
    paths = picture_paths(out, name)
    pictures.save_panel(paths["panels"], panel)
    pictures.save_map(paths["maps"], inspection.anomaly_map)
    pictures.save_mask(paths["masks"], inspection.mask)


def facts(model: Model, evaluation: Evaluation) -> dict[str, object]:
    """What the report says of a model."""
    backbone = model.backbone
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
        "banks": describe_banks(model),
        "fit_seconds": sum(seconds.values()),
        "inspect_ms": 1000 * evaluation.inspect_seconds / len(evaluation.images),
        "share_not_looked_at": evaluation.metrics["not_looked_share"],
        "recipe": model.recipe.to_toml(comments=False),
        "card": card(replace(model, evaluation=None), evaluation),  # the report itself says what was measured
    }


def _put_in_place(
    new: Path, out: Path, held: Path, models: Iterable[tuple[Path, Path]], *, identity: str
) -> None:
    """Move whole results to where they belong; what an earlier run listed goes. A kill meanwhile leaves a list that
    says `"complete": false`, and what it lists is the next run's to replace."""
    made = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    listed = _listed(out)
    kept = {*(out / name for name in made), out / MANIFEST}
    gone = sorted(path for path in listed - kept if not path.is_dir())
    every = {*(path.as_posix() for path in made), *(path.relative_to(out).as_posix() for path in listed)}
    begun, done = new / f"begun.{MANIFEST}", new / MANIFEST
    write_text(begun, _manifest(sorted(every), identity, complete=False))
    write_text(done, _manifest([path.as_posix() for path in made], identity, complete=True))
    try:
        held.mkdir()
    except OSError as error:
        raise output_error(held, error) from error
    moves = [*((None, path) for path in gone), *((new / name, out / name) for name in made), *models]
    swap([(begun, out / MANIFEST), *moves, (done, out / MANIFEST)], held=held)
    _remove_empty({parent for path in gone for parent in path.parents if parent.is_relative_to(out)} - {out})


def _manifest(files: list[str], identity: str, *, complete: bool) -> str:
    written_by = {"goodparts": __version__, "model": identity, "complete": complete}
    return json.dumps({**written_by, "files": files}, indent=1) + "\n"


def _listed(out: Path) -> set[Path]:
    """The files of a results folder that an earlier run listed as its own, the list among them."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"] if "goodparts" in manifest else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return set()
    if not isinstance(files, list):
        return set()
    return {out / name for name in (*_inside(files), MANIFEST)}


def _inside(names: Iterable[object]) -> Iterator[str]:
    """Those of the names in a list that can be a run's: of its fixed files, or of pictures in their folders."""
    for name in names:
        if not isinstance(name, str) or "\0" in name or "\\" in name:
            continue
        path = PurePosixPath(name)
        picture = len(path.parts) > 1 and PICTURE_FOLDERS.get(path.parts[0]) == path.suffix
        if name in (*_FILES, _ZIP) or (picture and ".." not in path.parts):
            yield name


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        try:
            folder.rmdir()
        except OSError:  # not empty, or somebody else's by now
            continue


def _models(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*.goodparts") if path.is_file())


def _pack(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Add a file to an archive: always the same date and rights, and not compressed a second time."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    packed_already = path.suffix.lower() in (".png", ".goodparts")
    member.compress_type = zipfile.ZIP_STORED if packed_already else zipfile.ZIP_DEFLATED
    member.create_system, member.external_attr = 3, 0o644 << 16  # as on Linux, wherever it is written
    member.file_size = path.stat().st_size  # lets the archive choose the large format where it is needed
    with path.open("rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)
