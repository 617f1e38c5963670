"""How often drift is reported for nothing, and how soon for something.

    python benchmarks/drift.py --streams 1000

Streams of normal scores, each with a calibration set of its own. False alarms: share of streams of 10,000 unchanged
parts that ring, one sum (up to 15 run side by side). Delay: parts until it rings, median and worst in ten, after 500
unchanged parts; a shift is in standard deviations. Bad parts: share of streams of 1,000 that ring when so many parts
are gross defects. Prints a Markdown table; takes some minutes.
"""

import argparse
from collections.abc import Iterable
from itertools import chain

import numpy as np

from goodparts.decision.drift import Drift

LONG = 5_000  # parts after which a change counts as never noticed


def rings_at(drift: Drift, scores: Iterable[float]) -> float:
    """Number of the first part that rings, or infinity."""
    return next((number for number, score in enumerate(scores, start=1) if drift.add(score)), np.inf)


def row(calibration: int, streams: int, rng: np.random.Generator) -> list[str]:
    def drift() -> Drift:
        return Drift(rng.normal(size=calibration).tolist(), seed=int(rng.integers(1 << 32)))

    false = [rings_at(drift(), rng.normal(size=10_000)) for _ in range(streams)]
    cells = [str(calibration), f"{np.isfinite(false).mean():.2%}"]
    for shift in (0.5, 1, 2):
        numbers = [
            rings_at(drift(), chain(rng.normal(size=500), rng.normal(shift, size=LONG))) - 500
            for _ in range(200)
        ]
        middle, late = np.quantile(numbers, (0.5, 0.9), method="higher")
        cells.append(
            " / ".join(f"{delay:.0f}" if np.isfinite(delay) else "never" for delay in (middle, late))
        )
    for share in (0.01, 0.1, 0.2):
        found = [
            rings_at(drift(), np.where(rng.random(1000) < share, 99.0, rng.normal(size=1000)))
            for _ in range(200)
        ]
        cells.append(f"{np.isfinite(found).mean():.1%}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000, help="streams for the rate of false alarms")
    streams = parser.parse_args().streams
    heads = ["calibration", "false alarms", *(f"delay, {shift} sigma" for shift in (0.5, 1, 2))]
    heads += [f"{share} bad" for share in ("1 %", "10 %", "20 %")]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for calibration in (20, 50, 100, 200, 1000):
        print(
            "| " + " | ".join(row(calibration, streams, np.random.default_rng(calibration))) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
