"""Goodparts beside anomalib and the scheme of the paper's authors: same images, size, backbone and ratio, one run.

    python benchmarks/versus.py DATA BACKBONE [--env DIR] [--shim FILE] [--quick]
    python benchmarks/versus.py ../shared/mvtec_ad/metal_nut ../shared/weights/resnet50_he.onnx

Installs anomalib and faiss in an environment of their own, with pip as it is set up on this machine, and deletes it
afterwards unless `--env` says where to keep it. Each contender is a process; they take turns, round by round, so that a
busy machine slows them alike. `--shim` is a Python file to import before torchvision, for a machine on which
torchvision's compiled operators don't load. DATA is in the layout of MVTec AD, BACKBONE a ResNet's file with layer2 and
layer3. Both sides run its very weights (anomalib through a torch module made from the ONNX graph, BatchNorm folded) on
all cores, with 10 % of all patches in the bank. What is timed, always as a median:

- coreset: from the features of all good images in memory to the 10 % picked. Ours: random projection and greedy
  choice. anomalib's: `KCenterGreedy.sample_coreset`, for a part of its picks; each costs the same, so the rest is
  extrapolated.
- fit: from files to a model. Ours: `Inspector.fit`, held-out calibration included. anomalib's: its reader and resizing
  in as many processes as there are cores, `PatchcoreModel` in training mode in batches of 32, and its coreset as above;
  without its Lightning engine and without its validation, which chooses the threshold.
- image: ours from the decoded array to verdict, regions and map at the original size. anomalib's: only
  `PatchcoreModel.forward` in inference mode, from a tensor that is resized and normalised to score and map at the
  working size; and the model as its exporter writes it, in OpenVINO, from the same tensor, in float32 as ours and in
  the precision that OpenVINO picks for this processor. The authors' scheme: features as anomalib's,
  `IndexFlatL2.search` (k = 1) and the largest distance; no map. Each turn is one call to warm up and one that counts.

Scores: all contenders judge the test images, against the same bank (ours at 10 %) but with their own way of reading and
resizing.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from versus_environment import contender, environment, installed, say

from goodparts import Dataset, GoodpartsError, Inspector, Recipe, parallel, read_dataset
from goodparts.backbones.backbone import cut_down
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank import coreset
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.evaluation.metrics import auroc
from goodparts.features.extract import Extractor, extract
from goodparts.features.projection import Projection
from goodparts.preprocessing import framing
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE

RATIO = 0.1
OURS, OURS_LIMITED = "goodparts", "goodparts, default bank"
ANOMALIB, AUTHORS = "anomalib", "authors' scheme"
CONTENDERS = {
    ANOMALIB: "anomalib",
    "anomalib in OpenVINO, float32": "exported",
    "anomalib in OpenVINO, its precision": "exported_freely",
    AUTHORS: "authors",
}
Samples = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--size", type=int, default=224, help="working size in pixels (224)")
    parser.add_argument("--env", type=Path, help="folder of the other environment, kept and used again")
    parser.add_argument("--shim", type=Path, help="Python file to import before torchvision")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and picks, a third of the test images"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("versus: terminated"))
    try:
        with ExitStack() as stack:
            run(options, stack)
    except KeyboardInterrupt:
        sys.exit("versus: interrupted")
    except GoodpartsError as error:
        sys.exit(f"versus: {error}")


def run(options: argparse.Namespace, stack: ExitStack) -> None:
    recipe = Recipe(
        backbone=str(options.backbone),
        layers=("layer2", "layer3"),
        banks="joined",  # as theirs
        image_size=options.size,
        aspect="as_given",
        sampling_ratio=RATIO,
        sampling_limit=0,
        precision="f32",
    )
    limited = recipe.replace({"sampling_limit": Recipe().sampling_limit})
    data = read_dataset(options.data)
    if options.shim and not options.shim.is_file():
        sys.exit(f"versus: --shim {options.shim}: there is no such file")
    backbone = cut_down(load_backbone(recipe.backbone), recipe)
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="versus-")))
    python = environment(options.env or work / "env")
    disk = {
        OURS: installed(Path(sys.executable), "goodparts"),
        ANOMALIB: installed(python, "anomalib", "torch", "torchvision"),
        AUTHORS: installed(python, "torch", "torchvision", "faiss-cpu"),
    }
    onnx.save(backbone.model, work / "backbone.onnx")
    say("features of all good images")
    features = all_features(data, backbone, recipe)
    np.save(work / "features.npy", features)
    common = [str(work / "backbone.onnx"), f"--size={options.size}", f"--threads={parallel.cores()}"]
    common += [f"--shim={options.shim.absolute()}"] if options.shim else []
    contenders = {
        name: stack.enter_context(contender(python, [kind, *common], work / f"{kind}.log"))
        for name, kind in CONTENDERS.items()
    }
    theirs, rounds = contenders[ANOMALIB], 1 if options.quick else 3
    first = features[: len(features) // len(data.train)].copy()
    difference = unlikeness(theirs, first, data.train[0], recipe, work)
    picks = min(round(RATIO * len(features)), 50 if options.quick else 200)
    chosen = time_coreset(theirs, features, work / "features.npy", picks, rounds)
    title = f"Coreset, {RATIO:.0%} of {len(features):,} x {features.shape[1]:,}"
    del features
    fits, inspectors = time_fit(theirs, data, {OURS: recipe, OURS_LIMITED: limited}, min(rounds, 2))
    banks = {name: inspector.model.bank.features for name, inspector in inspectors.items()}
    np.save(work / "bank.npy", banks[OURS])
    for each in contenders.values():
        each("use_bank", bank=str(work / "bank.npy"))
    images = time_image(contenders, inspectors, data.test[0].path, 8 if options.quick else 30)
    samples = data.test[:: 3 if options.quick else 1]
    scores = all_scores(contenders, inspectors, [sample.path for sample in samples])
    say(None)

    begin, some = median(chosen["begin"]), median(chosen["some"])
    whole = begin + (some - begin) * (len(banks[OURS]) - 1) / (picks - 1)
    forward = median(fits[ANOMALIB])
    settings = f"{len(data.train)} good images, {options.backbone.name}, {options.size} px"
    print(f"\n{machine()}. {data.name}: {settings}.\n")
    table(title, "s", {OURS: median(chosen[OURS]), f"anomalib (extrapolated from {picks} picks)": whole})
    fitted = {name: median(fits[name]) for name in inspectors}
    table("Fit", "s", {**fitted, f"anomalib ({forward:.0f} s, and its coreset as above)": forward + whole})
    entries = {name: len(banks.get(name, banks[OURS])) for name in images}
    table(
        "One image",
        "ms",
        {f"{name} ({entries[name]:,} entries)": 1000 * median(images[name]) for name in images},
    )
    table_of_scores(scores, [sample.label for sample in samples])
    table("Installed, with all that is required", "MB", {name: size / 1e6 for name, size in disk.items()})
    print(f"Features of an image, anomalib's against ours: {difference:.0e} apart, relatively.")


# ---- what is measured


def all_features(data: Dataset, backbone: Any, recipe: Recipe) -> np.ndarray:
    """Patch features of all good images, (n, d) float32."""
    extractor = Extractor(backbone, recipe)
    good = GoodImages.of(data.train, read=read_image, workers=parallel.default_workers())
    preprocessor = Preprocessor.learn(good, recipe, extractor.grid, EVERYWHERE)
    with extract(good, extractor, preprocessor) as found:
        return np.concatenate([found.features.image(index) for index in range(len(found))])


def unlikeness(theirs: Callable[..., Any], ours: np.ndarray, path: Path, recipe: Recipe, work: Path) -> float:
    """How far anomalib's patch features of an image lie from ours, relatively, from the same resized pixels."""
    pixels = read_image(path)
    np.save(work / "working.npy", framing.apply(framing.frame_of(pixels.shape[:2], recipe), pixels))
    theirs("embed", working=str(work / "working.npy"), to=str(work / "embedded.npy"))
    return float(np.linalg.norm(np.load(work / "embedded.npy") - ours) / np.linalg.norm(ours))


def time_coreset(
    theirs: Callable[..., Any], features: np.ndarray, file: Path, picks: int, rounds: int
) -> Samples:
    count = round(RATIO * len(features))

    def ours() -> None:
        points = Projection.draw(features.shape[1], Recipe()).of(features)
        points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
        coreset.greedy(points, count)

    samples: Samples = defaultdict(list)
    for index in range(rounds):
        say(f"coreset, round {index + 1} of {rounds}")
        samples[OURS].append(seconds(ours))
        begin, some = theirs("coreset", features=str(file), picks=picks)
        samples["begin"].append(begin)
        samples["some"].append(some)
    return samples


def time_fit(
    theirs: Callable[..., Any], data: Dataset, recipes: dict[str, Recipe], rounds: int
) -> tuple[Samples, dict[str, Inspector]]:
    inspectors = {name: Inspector(recipe) for name, recipe in recipes.items()}
    paths = [path_text(path) for path in data.train]
    samples: Samples = defaultdict(list)
    for index in range(rounds):
        say(f"fit, round {index + 1} of {rounds}")
        for name, inspector in inspectors.items():
            samples[name].append(seconds(lambda inspector=inspector: inspector.fit(data.train)))
        samples[ANOMALIB].append(theirs("extract", images=paths))
    return samples, inspectors


def time_image(
    contenders: dict[str, Callable[..., Any]], inspectors: dict[str, Inspector], path: Path, rounds: int
) -> Samples:
    pixels = read_image(path)
    samples: Samples = defaultdict(list)
    for index in range(rounds):
        if index % 8 == 0:
            say(f"image, round {index + 1} of {rounds}")
        for name, inspector in inspectors.items():
            inspector.inspect_pixels(pixels)
            samples[name].append(seconds(lambda inspector=inspector: inspector.inspect_pixels(pixels)))
        for name, call in contenders.items():
            samples[name].append(call("inspect", image=path_text(path)))
    return samples


def all_scores(
    contenders: dict[str, Callable[..., Any]], inspectors: dict[str, Inspector], paths: list[Path]
) -> Samples:
    say("scores of the test images")
    texts = [path_text(path) for path in paths]
    scores = {name: list(inspector.score_many(paths)) for name, inspector in inspectors.items()}
    both = contenders[ANOMALIB]("both_scores", images=texts)
    scores[ANOMALIB], scores["anomalib, 1 neighbour in the score"] = map(list, zip(*both, strict=True))
    for name, call in contenders.items():
        if name not in scores:
            scores[name] = call("score", images=texts)
    return scores


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


# ---- what is printed


def table(title: str, unit: str, rows: dict[str, float]) -> None:
    """A table of figures, each beside its ratio to the first."""
    first = next(iter(rows.values()))
    print(f"| {title} | {unit} | times ours |\n|---|---|---|")
    for name, value in rows.items():
        print(
            f"| {name} | {value:,.{0 if value >= 100 else 1}f} | {value / first:,.{0 if value >= 20 * first else 2}f} |"
        )
    print()


def table_of_scores(scores: Samples, labels: list[bool]) -> None:
    ours = np.array(scores[OURS])
    print(
        f"| Scores of {len(labels)} test images | image AUROC | correlation with ours | median ratio to ours |"
    )
    print("|---|---|---|---|")
    for name, values in scores.items():
        area = 100 * auroc(np.array(labels), np.array(values))
        print(
            f"| {name} | {area:.2f} | {np.corrcoef(ours, values)[0, 1]:.4f} | {median(values / ours):.4f} |"
        )
    print()


def machine() -> str:
    """Processor, cores and versions."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    return f"{processor}, {parallel.cores()} cores, {platform.system()}, Python {platform.python_version()}"


def path_text(path: Path) -> str:
    return str(path.absolute())


if __name__ == "__main__":
    main()
