"""The model card: what a threshold means for good parts, how it was found, and what nobody tested, in plain words.

Whoever reads it need not know what a p-value or a confidence is. The report, `goodparts card` and what the commands
print share these sentences.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from goodparts.decision.binomial import images_needed, share_in_words
from goodparts.decision.calibration import Calibration, Decision, zone_recipe
from goodparts.decision.good_scores import CALIBRATION_SET, COPIES
from goodparts.engines import precision
from goodparts.evaluation.evaluation import Evaluation
from goodparts.files import JsonRecord
from goodparts.model.model import Model
from goodparts.preprocessing import framing, tiling
from goodparts.recipe import copies as recipe_copies
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text
from goodparts.report.hints import hints
from goodparts.report.last_evaluation import CLASS_HEAD, class_rows, in_words
from goodparts.report.misses import miss_sections, rows_of
from goodparts.report.sections import Section, Table, percent

FEW = 20  # good images: with fewer, a threshold is a guess
_COARSE = 4.0  # times that images are reduced, from which on tiles are worth a hint
LEAST_ALIKE = 5  # good images that are named
WANTED = (0.05, 0.02, 0.01, 0.001)  # false-reject rates of which is said what they need

FEW_IMAGES = "Few good images"
MEANING = "What it means for good parts"
FEWER = "What fewer false rejects need"
DECISION = "The threshold"
RARITY = "How rare a score is"
LEAST = "Good images that look least like the rest"
EVALUATED = "The last evaluation"
UNTESTED = "Not tested"
LEARNT = "What was learnt"
EARLIER = "Earlier decisions"


def card(model: Model, evaluation: Evaluation | None = None) -> tuple[Section, ...]:
    """The sections of a model's card: what matters most at the line comes first.

    `evaluation`, of the model, tells what lower thresholds do to bad parts.
    """
    calibration = model.calibration
    sections = [
        *false_reject_sections(model),
        *miss_sections(model, evaluation),
        Section(DECISION, tuple(_decision(model)), _zones(calibration.decision)),
        Section(RARITY, tuple(_rarity(calibration))),
        *_least_alike(calibration),
        *_evaluated(model),
        Section(UNTESTED, tuple(_untested(model))),
        Section(LEARNT, tuple(_learnt(model)), folded=True),
    ]
    if calibration.history:
        earlier = tuple(map(_earlier, reversed(calibration.history)))
        sections.append(Section(EARLIER, earlier, folded=True))
    return tuple(sections)


def card_text(model: Model, name: str) -> str:
    """The card as Markdown."""
    lines = [f"# {name}", "", f"Model {model.identity[:12]}, fitted {model.fit_record.fitted}."]
    for section in card(model):
        lines += ["", f"## {section.heading}", "", *(f"- {line}" for line in section.lines)]
        if section.table:
            rows = (section.table.head, ("---",) * len(section.table.head), *section.table.rows)
            lines += ["", *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def card_record(model: Model, name: str) -> JsonRecord:
    """The card's facts for machines."""
    calibration, rows = model.calibration, rows_of(model)
    record: JsonRecord = {
        "name": name,
        "identity": model.identity,
        "parent": model.provenance.parent,
        "good_images": model.provenance.good_images,
        "left_out": list(calibration.left_out),
        "threshold": calibration.decision.threshold,
        "threshold_rule": calibration.decision.threshold_rule,
        "pixel_threshold": calibration.pixel_threshold,
        "pixel_threshold_rule": calibration.decision.pixel_threshold_rule,
        "scores_from": calibration.used.source,
        "scores": len(calibration.scores),
        "warnings": warnings(model),
        "least_alike": [
            {"name": name, "score": score} for name, score in least_alike(calibration, LEAST_ALIKE)
        ],
        "decisions_before": len(calibration.history),
        "precision": precision.in_use(model.recipe, model.precision),
        "precision_check": model.precision.to_dict(),
        "seen_share": model.provenance.seen_share,
        "zones": [asdict(zone) for zone in calibration.decision.zones],
        "evaluation": None if model.evaluation is None else model.evaluation.to_dict(),
        "trade_offs": [row.to_dict() for row in rows],
        "hints": list(hints(model, rows)),
    }
    if calibration.decision.threshold is not None:
        bound = calibration.false_reject_bound(model.recipe.confidence)
        record |= {
            "rejected": bound.rejected,
            "false_reject_rate_at_most": bound.rate,
            "confidence": bound.confidence,
            "certified": bound.certified,
        }
    return record


def rule_in_words(decision: Decision, recipe: Recipe) -> str:
    """How a threshold was found: "the average of 220 good scores plus 3 times ..."."""
    of = f"{decision.good} good scores"
    if decision.source == COPIES:
        of = f"the scores of {decision.good} copies of the only good image"
    promised = f"{percent(recipe.false_reject_rate)} with {percent(recipe.confidence)} confidence"
    return {
        "robust_sigma": f"the median of {of} plus {recipe.threshold_sigma:g} times their usual spread (robust standard "
        "deviations: one odd image does not move them)",
        "sigma": f"the average of {of} plus {recipe.threshold_sigma:g} times their usual spread (mean + "
        f"{recipe.threshold_sigma:g} standard deviations)",
        "quantile": f"the score that {percent(recipe.threshold_quantile)} of {of} do not exceed (a quantile)",
        "rate": f"the lowest that keeps false rejects under {promised}, counted along {of}"
        if decision.kept
        else f"the largest of {of}, which are too few to keep false rejects under {promised}",
        "tail": f"where a curve fitted to the largest of {of} leaves {percent(recipe.false_reject_rate)} of good "
        "parts above (a generalised Pareto tail)",
        "fixed": "given by the recipe",
        "f1": "chosen for the best F1 on the labelled test images: an oracle that no line has",
    }[decision.threshold_rule]


def false_reject_sections(model: Model) -> tuple[Section, ...]:
    """What the threshold means for good parts, and what a lower rate needs; nothing while there is no threshold."""
    calibration, recipe = model.calibration, model.recipe
    if calibration.decision.threshold is None:
        return ()
    bound = calibration.false_reject_bound(recipe.confidence)
    lies = "lies" if bound.rejected == 1 else "lie"
    copied = calibration.used.source == COPIES
    lines = [
        f"At most {percent(bound.rate)} of good parts are rejected, about {share_in_words(bound.rate)}.",
        f"No more can be said from one good image, with {percent(bound.confidence)} confidence. It was not scored: "
        f"{len(calibration.scores)} copies of it were."
        if copied
        else f"{bound.rejected} of {_parts(bound.good)} {lies} above the threshold, which is "
        f"{percent(bound.rejected / bound.good)}. Such a count is partly luck. The figure above allows for that, "
        f"and is right in {percent(bound.confidence)} of cases (the confidence).",
        "Certified, because the model never learnt from these images."
        if bound.certified
        else "Estimated, because the model knows no other good image. Some that it has never seen certify the rate: "
        "`goodparts calibrate MODEL FOLDER`."
        if copied
        else "Estimated, because the model learnt from these same images, and scored each as if it had not. Good "
        "images that it has never seen certify the rate: `goodparts calibrate MODEL FOLDER`.",
        "It holds for new parts from the same line. Ten pictures of one part count as one.",
    ]
    if calibration.decision.threshold_rule == "f1":
        lines.append("The threshold itself was chosen on labelled test images: expect worse from new parts.")
    few = [Section(FEW_IMAGES, tuple(warnings(model)))] if warnings(model) else []
    meaning = Section(MEANING, tuple(lines), badge="certified" if bound.certified else "estimated")
    zones = max(1, len(calibration.decision.zones))  # each has to keep its share, at its share of the doubt
    needs = [
        (rate, images_needed(rate / zones, 1 - (1 - bound.confidence) / zones))
        for rate in WANTED
        if rate < bound.rate
    ]
    if not needs:
        return (*few, meaning)
    lines = ["A lower rate takes more good images, none of them above the threshold."]
    if zones > 1:
        lines.append(
            f"Each of {zones} zones has to keep its share of it, so these are more than for a whole part."
        )
    reached = [rate for rate, images in needs if images <= bound.good]
    if reached:
        lines.append(
            f"There are enough for {percent(reached[-1])}: `goodparts calibrate MODEL --false-reject-rate "
            f"{reached[-1]:g}` raises the threshold that far. More bad parts may then be missed."
        )
    rows = (
        (percent(rate), f"{n:,}", "enough" if n <= bound.good else f"{n - bound.good:,} more")
        for rate, n in needs
    )
    head = ("rejected, at most", "images needed", f"you have {bound.good:,}")
    return *few, meaning, Section(FEWER, tuple(lines), Table(head, tuple(rows)))


def warnings(model: Model) -> list[str]:
    """What to know before a threshold is trusted that rests on few good images; nothing where they are enough."""
    calibration, recipe = model.calibration, model.recipe
    images = calibration.used.images
    if not calibration.decision.good or images >= FEW:
        return []
    rate = calibration.false_reject_bound(recipe.confidence).rate
    enough = images_needed(WANTED[0], recipe.confidence)
    lines = [
        f"The threshold rests on {_parts(images)}: it is a guess: bad parts may pass, or good ones be rejected. Up to "
        f"{percent(rate)} of good parts may be rejected, for all that is known. {enough} images, none of them "
        f"rejected, would put it at {percent(WANTED[0])}: {enough - images} more.",
    ]
    if calibration.used.source == COPIES:
        lines.append(
            f"With one image there is no other to judge it by, so {len(calibration.scores)} copies of it were judged. "
            "They show nothing of how good parts differ. Two more images say more than any number of copies."
        )
    as_they_lie = (
        bool(recipe.tiling or recipe.position_window) or recipe.pose != "as_is"
    )  # turned copies don't go with
    if not as_they_lie and not any(copy.degrees for copy in recipe_copies.copies(recipe.augment)):
        lines.append(
            "Where parts may lie in any direction, let the bank learn from turned copies, too: --augment rotate45."
        )
    return lines


def least_alike(calibration: Calibration, most: int) -> list[tuple[str, float]]:
    """Names and held-out scores of the good images that lie farthest from the rest, farthest first."""
    if calibration.training_set.source == COPIES:
        return []
    names, scores = calibration.training_set.names, calibration.as_inspected(calibration.training_set)
    order = np.argsort(-np.array(scores), kind="stable")[:most]
    return [(names[index], scores[index]) for index in order]


def describe_tiles(model: Model) -> str | None:
    """How images of the usual size are tiled, in words; None: they are not."""
    tiles = model.preprocessor.tiling
    if not tiles.several:
        return None
    text = tiles.in_words(model.provenance.usual_size)
    if model.bank.tiles is not None:
        text += f"; each place has a bank of its own, of {model.bank.most_compared:,} patch features at most"
    return text


def describe_detail(model: Model) -> str:
    """How large a defect has to be, in pixels of images of the usual size, in words (`docs/tiles.md`)."""
    recipe = model.preprocessor.image_recipe
    size = model.provenance.usual_size
    frame = framing.frame_of(size, recipe)
    scale = [size[axis] / frame.resized[axis] for axis in (0, 1)]
    smallest = round(tiling.NEEDED * max(1.0, *scale))
    text = f"defects smaller than about {smallest} px may be missed"
    if model.preprocessor.tiling.several:
        return text
    if recipe.framing == "stretch" and max(scale) > _COARSE:
        text += "; for smaller ones: --tiling auto --smallest-defect PIXELS"
    return f"{size_text(size)} px {tiling.reduction_in_words(scale)}, so {text}"


def describe_banks(model: Model) -> str:
    """How many patch features of how many dimensions each memory bank has, from fine to coarse."""
    sizes = [depth.bank.features.shape for depth in model.depths]
    (entries, dimensions), coarser = sizes[0], sizes[1:]
    text = f"{entries:,} patch features of {dimensions} dimensions"
    if not coarser:
        return text
    return f"{text} at the finest depth; {' and '.join(f'{more:,} of {d}' for more, d in coarser)} at coarser ones"


def _learnt(model: Model) -> list[str]:
    backbone, learnt_from = model.backbone, model.provenance
    images = learnt_from.good_images
    sizes = ", ".join(f"{count} of {size}" for size, count in list(learnt_from.image_sizes.items())[:3])
    lines = [
        f"{images} image{'s' * (images != 1)} of good parts ({sizes} pixels), and nothing else: no defect was ever "
        "shown.",
        f"Backbone {backbone.name} ({backbone.source}, licence {backbone.licence}), layers "
        f"{', '.join(model.recipe.layers)}, normalisation {backbone.normalisation}.",
        f"Memory bank{'s' * bool(model.coarser)}: {describe_banks(model)}.",
        f"On this machine {precision.describe(model.recipe, model.precision)}.",
    ]
    copies = len(recipe_copies.copies(model.recipe.augment))
    if copies:
        lines.append(
            f"The bank also learnt from {copies} {'copy' if copies == 1 else 'copies'} of each image "
            f"({', '.join(model.recipe.augment)})."
        )
    if (tiled := describe_tiles(model)) is not None:
        lines.append(f"Looked at in tiles: {tiled}.")
    lines.append(f"Detail: {describe_detail(model)}.")
    left_out = model.calibration.left_out
    unsure = ", or were not aligned," if model.recipe.pose_failure == "recheck" else ""
    if left_out:
        lines.append(
            f"{len(left_out)} image(s) looked too unlike the rest{unsure} and were left out of the bank: "
            f"{', '.join(left_out)}."
        )
    if learnt_from.parent:
        lines.append(f"Learnt on from model {learnt_from.parent[:12]}.")
    return lines


def _decision(model: Model) -> list[str]:
    calibration, recipe = model.calibration, model.recipe
    decision, scores = calibration.decision, np.array(calibration.scores)
    how = {
        CALIBRATION_SET: "never learnt from",
        COPIES: f"of which {len(scores)} copies were judged",
    }.get(calibration.used.source, "each compared with the others only")
    lines = ["The score of an image says how unlike all good images its most unusual spot is."]
    if decision.zones:
        lines += [
            f"Each of {len(decision.zones)} zones has a score and a threshold of its own. A part is BAD if any zone's "
            "score is above it. Its own score is the largest multiple of a zone's threshold, so it is BAD above 1.",
            f"A zone's threshold is {rule_in_words(decision, zone_recipe(recipe, len(decision.zones)))}.",
        ]
    elif decision.threshold is None:
        lines.append(
            "No threshold yet: the oracle (f1) waits for a labelled set, such as `goodparts run` shows it. `goodparts "
            "calibrate MODEL --threshold-rule sigma` takes a rule that needs none."
        )
    else:
        lines.append(f"A part with a score above {decision.threshold:.4g} is BAD.")
        lines.append(f"That threshold is {rule_in_words(decision, recipe)}.")
    if decision.interval:
        low, high = decision.interval
        lines.append(
            f"Other good images of the same line might have put it anywhere from {low:.4g} to {high:.4g} "
            f"({percent(recipe.confidence)} interval)."
        )
    lines += [
        f"{_parts(calibration.used.images)}, {how}, scored {scores.min():.4g} to {scores.max():.4g}, "
        f"{scores.mean():.4g} on average.",
        f"In a BAD image, spots above {decision.pixel_threshold:.4g} on the heatmap are outlined, unless smaller than "
        f"{recipe.minimum_area} pixels. That limit is {pixel_rule_in_words(decision, recipe)}"
        f"{', zone by zone' if decision.zones else ''}.",
    ]
    return lines


def _zones(decision: Decision) -> Table | None:
    if not decision.zones:
        return None
    rows = ((zone.name, f"{zone.threshold:.4g}", f"{zone.pixel_threshold:.4g}") for zone in decision.zones)
    return Table(("zone", "threshold", "of the heatmap"), tuple(rows))


def pixel_rule_in_words(decision: Decision, recipe: Recipe) -> str:
    """How a pixel threshold was found."""
    sigma, quantile = f"{recipe.pixel_threshold_sigma:g}", percent(recipe.pixel_threshold_quantile)
    return {
        "peak_sigma": f"the average peak of a good heatmap plus {sigma} times the usual spread of peaks",
        "peak_quantile": f"what {quantile} of the peaks of good heatmaps do not exceed",
        "pixel_sigma": f"the average of all pixels of good heatmaps plus {sigma} times their usual spread",
        "pixel_quantile": f"what {quantile} of all pixels of good heatmaps do not exceed",
        "fixed": "given by the recipe",
    }[decision.pixel_threshold_rule]


def _rarity(calibration: Calibration) -> list[str]:
    n = calibration.used.images
    return [
        "Every inspection says how rare such a score is among good parts. At most 1 good part in 50 means: of 50 good "
        "parts, no more than 1 scores as high. In figures that is a p-value of 0.02.",
        f"With {_parts(n)} the rarest that can be said is 1 in {n + 1:,}: none of them scored as high.",
    ]


def _least_alike(calibration: Calibration) -> tuple[Section, ...]:
    threshold = calibration.decision.threshold
    rows = tuple(
        (name, f"{score / threshold:.3f}" if threshold else f"{score:.4g}", _side(score, threshold))
        for name, score in least_alike(calibration, LEAST_ALIKE)
    )
    head = ("image", "× threshold" if threshold else "score", "verdict")
    lines = ("Look at these: a defect hidden among the good images would be here.",)
    return (Section(LEAST, lines, Table(head, rows)),) if rows else ()


def _evaluated(model: Model) -> tuple[Section, ...]:
    found = model.evaluation
    if found is None:
        return ()
    oracle = model.calibration.decision.threshold_rule == "f1"
    table = Table(CLASS_HEAD, class_rows(found)) if found.by_class else None
    return (Section(EVALUATED, in_words(found, oracle=oracle), table),)


def _side(score: float, threshold: float | None) -> str:
    return "none yet" if threshold is None else "BAD" if score > threshold else "GOOD"


def _untested(model: Model) -> list[str]:
    recipe, calibration = model.recipe, model.calibration
    lines = [
        "Defects of which you have no labelled images. `goodparts evaluate MODEL DATA` tests those that you have.",
        "Any other camera, lens, light, position or variant of the part than in the good images.",
    ]
    if not calibration.used.certifies:
        lines.append("Good parts made on another day than those learnt from.")
    unseen = 1 - model.provenance.seen_share
    if unseen > 0:
        why = "the recipe's framing cuts off"
        if not model.preprocessor.roi.everywhere:
            why = "lies outside the region of interest"
        lines.append(f"{percent(unseen)} of every picture, which {why}.")
    if not recipe.quality_gate:
        lines.append(
            "Whether a picture is too blurred or dark to be judged: the quality gate is off (--quality-gate)."
        )
    return lines


def _earlier(decision: Decision) -> str:
    threshold = "none" if decision.threshold is None else f"{decision.threshold:.4g}"
    if decision.zones:
        threshold = " and ".join(f"{zone.name} {zone.threshold:.4g}" for zone in decision.zones)
    return (
        f"Threshold {threshold} by {decision.threshold_rule}, pixels {decision.pixel_threshold:.4g} by "
        f"{decision.pixel_threshold_rule}, from {decision.good} {decision.source.replace('_', '-')} scores."
    )


def _parts(n: int) -> str:
    return f"{n} good image{'s' * (n != 1)}"
