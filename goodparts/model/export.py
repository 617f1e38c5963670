"""Export: what `inspect` runs, as a file for other programs.

    image (n, H, W, 3) uint8 ──► model.pipeline() ──► distance_grid (n, h, w), score (n,)
    valid (n, h, w), letterbox only                        │
    tile (1,), where tiles have banks of their own         └──► anomaly_map (n, H, W)

A region of interest is inside the file: `valid` is then a constant, and several zones have a further output,
`zone_scores` (n, zones).

Nothing is computed in another way than `inspect` does: the graph is the same, its learnt inputs become constants, and
the operators of `framing.anomaly_map` two matrix products. `docs/export.md` is the interface.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.scoring import zone_nodes
from goodparts.decision.calibration import ZoneDecision
from goodparts.errors import OutputError
from goodparts.files import output_error, replacing, staging, swap, sync
from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Frame
from goodparts.recipe.values import size_text
from goodparts.version import __version__

if TYPE_CHECKING:
    import onnx

    from goodparts.engines.graph import Graph
    from goodparts.model.model import Model
    from goodparts.preprocessing.tiling import Tiling

INTERFACE = 1  # of inputs, outputs and metadata; raised when one of them changes its meaning
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
PRECISIONS = ("f32", "f16")
_LARGEST = 2**31 - 2**26  # bytes of what a protobuf message, and so an ONNX file in one piece, can hold
_HALF_RANGE = 65504  # largest number in float16


def export(model: Model, path: str | Path, *, format: str = "onnx", precision: str = "f32") -> Path:
    """Write a model for other programs, whole or not at all.

    Args:
        model: what was learnt.
        path: an .onnx file; or an .xml file, beside which the weights come as .bin (OpenVINO keeps them apart).
        format: "onnx" or "openvino".
        precision: how the backbone's weights and the memory bank are stored, "f32" or "f16"; computed is in float32.

    Raises:
        ModelError: the model has no threshold yet.
        OutputError: wrong suffix, format or precision, too large, or it can't be written there; or a step of the
            preprocessing (`pose`) is not part of the graph.
    """
    path = Path(path)
    for name, value, choices in (("format", format, tuple(SUFFIXES)), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise OutputError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
    if path.suffix.lower() != SUFFIXES[format]:
        other = next((name for name, suffix in SUFFIXES.items() if suffix == path.suffix.lower()), None)
        hint = f", or take format {other}" if other else ""
        raise OutputError(f"{path}: expected a file ending in {SUFFIXES[format]} for format {format}{hint}")
    for step in model.preprocessor.steps:
        if refusal := step.export_refusal(model.recipe):
            raise OutputError(f"export: {refusal}")
    described = metadata(model, precision)
    network = exported(model, precision)
    if format == "onnx":
        from onnx import helper

        helper.set_model_props(network, described)
        with replacing(path) as stream:
            stream.write(network.SerializeToString(deterministic=True))
    else:
        _write_openvino(network, described, path)
    return path


def metadata(model: Model, precision: str = "f32") -> dict[str, str]:
    """What the exported file says of itself.

    Raises:
        ModelError: the model has no threshold yet.
    """
    decision, recipe, backbone = model.calibration.decision, model.recipe, model.backbone
    roi, tiling = model.preprocessor.roi, model.preprocessor.tiling
    return {
        "goodparts": __version__,
        "interface": str(INTERFACE),
        "model": model.identity,
        "threshold": repr(model.calibration.threshold),
        "threshold_rule": decision.threshold_rule,
        "pixel_threshold": repr(decision.pixel_threshold),
        "pixel_threshold_rule": decision.pixel_threshold_rule,
        "minimum_area": str(recipe.minimum_area),
        "roi_size": "" if roi.everywhere else size_text(roi.size),
        "zones": ""
        if roi.everywhere
        else json.dumps([asdict(zone) for zone in _zones(model)], ensure_ascii=False),
        "image_size": size_text(recipe.image_size),
        "color": "RGB",
        "bit_depth": str(recipe.bit_depth or 16),
        "framing": "tiles" if tiling.several else recipe.framing,
        "tiles": json.dumps(_tiles(tiling, recipe.smoothing_sigma)) if tiling.several else "",
        "resize_size": str(recipe.resize_size) if recipe.framing == "crop" else "",
        "padding": ",".join(map(str, framing.PADDING)) if recipe.framing == "letterbox" else "",
        "precision": precision,
        "backbone": backbone.name,
        "backbone_source": backbone.source,
        "backbone_licence": backbone.licence,
        "backbone_sha256": backbone.sha256,
        "recipe": recipe.to_toml(comments=False, machine=False),
    }


def exported(model: Model, precision: str = "f32") -> onnx.ModelProto:
    """The pipeline with its constants inside and the anomaly map as a further output, checked.

    Raises:
        OutputError: it would be too large for one file.
    """
    import onnx
    from onnx import numpy_helper

    roi, several_tiles = model.preprocessor.roi, model.preprocessor.tiling.several
    if several_tiles and (not roi.everywhere or model.recipe.image_score == "reweighted"):
        key = "image_score = reweighted" if roi.everywhere else "roi"
        raise OutputError(
            f"export: the file holds the pipeline of one tile, and {key} differs from tile to tile; fit without "
            f"{'it (max, top_mean)' if roi.everywhere else 'roi'} or without tiling"
        )
    pipeline = model.pipeline()
    network, constants = pipeline.model, pipeline.constants
    size = network.ByteSize() + sum(value.nbytes for value in constants.values())
    if size > _LARGEST:
        raise OutputError(
            f"export: the memory bank of {model.entries} entries makes this {size / 2**30:.1f} GiB, and one "
            "ONNX file holds 2; fit with a smaller sampling_ratio or a sampling_limit"
        )
    given = [item for item in network.graph.input if item.name not in constants]
    del network.graph.input[:]
    network.graph.input.extend(given)
    network.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    if precision == "f16":
        _halve(pipeline)
    _add_map(network, model)
    if roi.several:
        _add_zones(network, model)
    network.producer_version = __version__
    onnx.checker.check_model(network, full_check=True)
    return network


def _add_map(network: onnx.ModelProto, model: Model) -> None:
    """`anomaly_map` of the working image; NaN, there and in `distance_grid`, where it did not look."""
    from onnx import TensorProto, helper, numpy_helper

    graph, size = network.graph, model.recipe.image_size
    roi = model.preprocessor.roi
    rows, columns = framing.operators(
        Frame(size, size, (0, 0), size), model.grid, model.recipe.smoothing_sigma
    )
    constants = {"rows": rows, "columns": np.ascontiguousarray(columns.T)}
    nodes = []

    def node(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, [*inputs], [name], name=name, **attributes))
        return name

    def spread(grid: str, name: str) -> str:
        part = node("MatMul", "map/rows", grid, name=f"{name}:rows")
        return node("MatMul", part, "map/columns", name=name)

    if model.preprocessor.masked:
        constants |= {"nothing": np.zeros(1, np.float32), "nan": np.full(1, np.nan, np.float32)}
        measured = next(item for item in graph.node if "distance_grid" in item.output)
        measured.name = measured.output[0] = "map/distances"  # those of padding, too
        patch_mask = node("Greater", "valid", "map/nothing", name="map/looked")
        node("Where", patch_mask, "map/distances", "map/nan", name="distance_grid")
        zeroed = node("Where", patch_mask, "map/distances", "map/nothing", name="map/shown")
        weights = spread(node("Cast", patch_mask, name="map/weight", to=TensorProto.FLOAT), "map/weights")
        mean = node("Div", spread(zeroed, "map/sum"), weights, name="map/mean")
        reached = node("Greater", weights, "map/nothing", name="map/reached")
        if not roi.everywhere:
            constants["seen"] = _levels(model)[None]
            mean = node("Div", mean, "map/seen", name="map/multiples")  # NaN outside
        node("Where", reached, mean, "map/nan", name="anomaly_map")
    else:
        spread("distance_grid", "anomaly_map")
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(value, f"map/{name}") for name, value in constants.items()
    )
    graph.output.append(helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["n", *size]))
    order = {"score": 0, "anomaly_map": 1, "distance_grid": 2}
    graph.output.sort(key=lambda item: order[item.name])


def _tiles(tiling: Tiling, sigma: float) -> dict[str, object]:
    """How tiles lie and how their distances are merged: all that another program needs, see docs/export.md."""
    rows, columns = ([weights.tolist() for weights in axis] for axis in tiling.weights)
    return {
        "canvas": size_text(tiling.canvas),
        "cell": size_text(tiling.cell),
        "rows": tiling.rows,
        "columns": tiling.columns,
        "row_weights": rows,
        "column_weights": columns,
        "smoothing_sigma": sigma,
    }


def _zones(model: Model) -> tuple[ZoneDecision, ...]:
    """Thresholds of each zone."""
    decision, roi = model.calibration.decision, model.preprocessor.roi
    if roi.everywhere or roi.several:
        return decision.zones
    return (ZoneDecision(roi.names[0], model.calibration.threshold, decision.pixel_threshold),)


def _levels(model: Model) -> NDArray[np.float32]:
    """What the map's values are divided by, (H, W) of the working image: NaN outside the region of interest, and inside
    1, or with several zones the pixel's threshold."""
    roi, recipe = model.preprocessor.roi, model.recipe
    frame = framing.frame_of(roi.size, recipe)
    thresholds = [zone.pixel_threshold if roi.several else 1.0 for zone in _zones(model)]
    levels = roi.levels(roi.size, thresholds)
    at = []
    for axis in (0, 1):
        centres = np.arange(frame.working_size[axis]) + 0.5 - frame.offset[axis]
        at.append(np.floor(centres * roi.size[axis] / frame.resized[axis]).astype(np.intp))
    rows, columns = at
    inside = np.logical_and.outer(
        (rows >= 0) & (rows < roi.size[0]), (columns >= 0) & (columns < roi.size[1])
    )
    picked = levels[np.clip(rows, 0, roi.size[0] - 1)[:, None], np.clip(columns, 0, roi.size[1] - 1)]
    return np.where(inside, picked, np.float32(np.nan))


def _add_zones(network: onnx.ModelProto, model: Model) -> None:
    """The scores of zones as a further output, and as `score` the largest multiple of a zone's threshold."""
    from onnx import TensorProto, helper, numpy_helper

    graph, roi = network.graph, model.preprocessor.roi
    over_all = next(item for item in graph.node if "score" in item.output)
    over_all.name = over_all.output[0] = "zones/whole"  # over all zones, which decides nothing
    thresholds = [zone.threshold for zone in model.calibration.decision.zones]
    nodes, constants = zone_nodes(
        "map/distances", roi.zone_patch_masks(model.recipe, model.grid), thresholds, model.recipe
    )
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.output.append(
        helper.make_tensor_value_info("zone_scores", TensorProto.FLOAT, ["n", len(roi.zones)])
    )


def _halve(pipeline: Graph) -> None:
    """Store the backbone's kernels and the bank's matrices in float16; a Cast makes float32 of them again."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = pipeline.model.graph
    casts = []
    for item in graph.initializer:
        learnt = item.name.startswith("backbone/") or item.name in pipeline.constants
        if not learnt or item.data_type != TensorProto.FLOAT or len(item.dims) < 2:
            continue
        value = numpy_helper.to_array(item)
        if np.abs(value).max(initial=0) <= _HALF_RANGE:
            full, half = item.name, f"{item.name}:f16"
            item.CopyFrom(numpy_helper.from_array(value.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [full], name=full, to=TensorProto.FLOAT))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _write_openvino(network: onnx.ModelProto, described: dict[str, str], path: Path) -> None:
    """Topology (.xml) and weights (.bin), both or neither; the former goes first and comes last, so that no half of a
    pair can be taken for a whole."""
    from goodparts.engines.openvino import write_ir

    with staging(path.parent) as folder:
        topology, weights, held = folder / "model.xml", folder / "model.bin", folder / "held"
        try:
            write_ir(network, described, topology)
            sync(weights)
            sync(topology)
            held.mkdir()
        except RuntimeError as error:
            raise OutputError(f"{path}: OpenVINO can't write it ({error}); free some space") from error
        except OSError as error:
            raise output_error(path, error) from error
        swap([(None, path), (weights, path.with_suffix(".bin")), (topology, path)], held=held)
