"""Memory banks chosen in two rounds of parts of the good images, against one greedy choice: radius and AUROC.

python benchmarks/composable.py shared/mvtec_ad/metal_nut shared/mvtec_ad/grid_256 [--parts 4] [--recipe default]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from goodparts import Inspector
from goodparts.bank.composable import covering_radius, first_round, second_round
from goodparts.bank.sampling_rules import RULES, Greedy
from goodparts.recipe.recipe import Recipe


class InParts(Greedy):
    """Greedy in each part of the images, then among what was chosen of the parts; notes radius and time."""

    joint: ClassVar[bool] = True

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.radii: list[float] = []
        self.seconds = 0.0

    def pick(
        self, points: Any, count: int, cells: Any, neighbourhood: Any, rng: Any, **options: Any
    ) -> NDArray[np.int64]:
        made = points()
        all_points = np.concatenate(
            [made[rows] for rows in np.array_split(np.arange(len(made)), 64) if len(rows)]
        )
        began = time.perf_counter()
        if self.parts == 1:
            kept = super().pick(lambda: made, count, cells, neighbourhood, rng, **options)
        else:
            rows = np.array_split(np.arange(len(all_points)), self.parts)
            chosen = [part[first_round(all_points[part], count)] for part in rows]
            kept = np.sort(np.concatenate(chosen)[second_round([all_points[some] for some in chosen], count)])
        self.seconds += time.perf_counter() - began
        self.radii.append(covering_radius(all_points, all_points[kept]))
        return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--parts", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--recipe", default="default")
    given = parser.parse_args()
    print(
        "| | parts | covering radius of each bank | against one | image AUROC | pixel AUROC | choosing, s |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for data in given.data:
        single: list[float] = []
        for parts in given.parts:
            rule = InParts(parts)
            RULES["greedy"] = rule
            inspector = Inspector(Recipe.load(given.recipe)).fit(data)
            radii = rule.radii[: len(inspector.model.depths)]
            single = single or radii
            found = inspector.evaluate(data).metrics
            ratio = ", ".join(f"{radius / one:.2f}" for radius, one in zip(radii, single, strict=True))
            print(
                f"| {data.name} | {parts} | {', '.join(f'{radius:.2f}' for radius in radii)} | {ratio} "
                f"| {100 * (found['image_auroc'] or 0):.2f} | {100 * (found['pixel_auroc'] or 0):.2f} "
                f"| {rule.seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
