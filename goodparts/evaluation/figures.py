"""What a model keeps of an evaluation; see `goodparts.model.records.EvaluationRecord`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from goodparts.evaluation.evaluation import Evaluation


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Its main figures, as JSON takes them."""
    counts, by_class = evaluation.counts, evaluation.by_class
    return {
        "name": _as_text(evaluation.name),
        "images": len(evaluation.images),
        "image_auroc": evaluation.metrics["image_auroc"],
        "pixel_auroc": evaluation.metrics["pixel_auroc"],
        "good": counts["true_good"] + counts["false_bad"],
        "rejected": counts["false_bad"],
        "bad": counts["true_bad"] + counts["false_good"],
        "missed": counts["false_good"],
        "rechecks": evaluation.rechecks,
        "learnt_from": evaluation.metrics["learnt_from"],
        "by_class": [{**asdict(count), "defect_class": _as_text(count.defect_class)} for count in by_class],
    }


def _as_text(name: str) -> str:
    """The name of a folder, which may be no text."""
    return name.encode("utf-8", "replace").decode()
