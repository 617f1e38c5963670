"""What the card says of the labelled test set that a model was measured on last."""

from __future__ import annotations

from goodparts.model.records import EvaluationRecord

CLASS_HEAD = ("class", "found", "could not be judged")


def in_words(found: EvaluationRecord, *, oracle: bool) -> tuple[str, ...]:
    """Its figures as sentences; `oracle`: the threshold was chosen on these very images."""
    lines = [f"On {found.name}, {found.images} labelled image{'s' * (found.images != 1)}, {found.evaluated}."]
    if found.good:
        lines.append(f"{found.rejected} of {found.good} good image{'s' * (found.good != 1)} rejected.")
    if found.bad:
        lines.append(f"{found.missed} of {found.bad} bad image{'s' * (found.bad != 1)} missed.")
    if found.rechecks:
        lines.append(f"{found.rechecks} could not be judged (RECHECK).")
    if found.learnt_from:
        lines.append(
            f"The model learnt from {found.learnt_from} of these {found.images} images, which flatters it."
        )
    areas = (("Image", found.image_auroc), ("Pixel", found.pixel_auroc))
    lines += [f"{kind} AUROC {area:.4f}." for kind, area in areas if area is not None]
    if oracle:
        lines.append("The threshold was chosen on these very images: expect worse from new parts.")
    return tuple(lines)


def class_rows(found: EvaluationRecord) -> tuple[tuple[str, str, str], ...]:
    """How many of each class of defect were found, and how many of it were sent back."""
    return tuple(
        (str(of["defect_class"]), f"{of['found']} of {of['images']}", str(of["rechecks"]))
        for of in found.by_class
    )
