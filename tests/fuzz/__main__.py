"""`python -m fuzz`: runs all targets for a while and says what they found; 1 if that is anything."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.campaign import Findings, find, fuzz, look
from fuzz.targets import TARGETS
from goodparts.parallel import cores


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Hand broken files to goodparts.")
    parser.add_argument(
        "--target", choices=TARGETS, action="append", help="only this one; may be given again"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="for all targets together")
    parser.add_argument("--seed", type=int, help="the same seed gives the same cases; any, if none is given")
    parser.add_argument("--file", type=Path, help="try this file of a --target instead")
    parser.add_argument(
        "--kept", type=Path, default=Path("fuzz-faults"), help="folder for files that show a fault"
    )
    given = parser.parse_args()
    names = given.target or list(TARGETS)
    if given.file:
        outcome = look(find(TARGETS[names[0]]), given.file)
        print(outcome.fault or ("refused in words" if outcome.refused else "read"))
        return bool(outcome.fault)
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "big")
    side_by_side = min(cores(), len(names))
    seconds = given.seconds * side_by_side / len(names)
    print(f"seed {seed}, {seconds:.0f} s a target, {side_by_side} at a time", flush=True)
    failed = False
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        ThreadPoolExecutor(side_by_side) as pool,
    ):

        def run(name: str) -> Findings:
            seeds, scratch = Path(home, name, "seeds"), Path(home, name, "scratch")
            seeds.mkdir(parents=True)
            scratch.mkdir()
            find(TARGETS[name]).write_seeds(seeds)
            return fuzz(TARGETS[name], seeds, scratch, given.kept, seed=seed, seconds=seconds)

        for name, findings in zip(names, pool.map(run, names), strict=True):
            faults = f"{len(findings.faults)} kinds of fault" if findings.faults else "no fault"
            print(
                f"{name:10} {findings.cases:6,} cases, {findings.refused:6,} refused in words, {faults}",
                flush=True,
            )
            for count, text, path in findings.faults.values():
                failed = True
                print(
                    f"  {count} x {text}\n      PYTHONPATH=tests python -m fuzz --target {name} --file {path}"
                )
    return failed


if __name__ == "__main__":
    sys.exit(main())
