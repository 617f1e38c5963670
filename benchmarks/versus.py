"""Goodparts beside anomalib's methods and the scheme of PatchCore's authors: same images, same machine, one run.

    python benchmarks/versus.py DATA BACKBONE [--resnet18 FILE] [--only NAME ...] [--env DIR] [--shim FILE] [--quick]
    python benchmarks/versus.py ../shared/mvtec_ad/metal_nut ../shared/weights/resnet50_he.onnx \
        --resnet18 ../shared/weights/resnet18_tv.safetensors

Installs anomalib and faiss in an environment of their own, with pip as it is set up on this machine, and deletes it
afterwards unless `--env` says where to keep it. Each contender is a process; they take turns, round by round, so that a
busy machine slows them alike. `--shim` is a Python file to import before torchvision, for a machine on which
torchvision's compiled operators don't load. DATA is in the layout of MVTec AD. Networks come from files, never from a
hub; both sides run the very weights (anomalib through a torch module made from the ONNX graph, BatchNorm folded), on
all cores. A method whose network is not given gets no row, and why is said.

- ours: the presets `default` and `fast`; and `plain` with BACKBONE at 224 px and 10 % of all patches, for PatchCore.
- patchcore, authors: BACKBONE, a ResNet's file with layer2 and layer3, at 224 px. Both are given our bank of 10 %.
- mh_patchcore: anomalib's Mahalanobis PatchCore with its published defaults, but BACKBONE.
- padim: with its published defaults and the ResNet-18 of `--resnet18`.
- efficient_ad: EfficientAD-S, trained for `--train-minutes` with `--efficient-ad-teacher` (anomalib's
  `pretrained_teacher_small.pth`) and `--imagenette` (a folder of folders of images). Without these two a few steps are
  timed, and there are no scores: its times don't depend on what its teacher knows.

What is timed, as a median where there are rounds (of an image 15, of the coreset 2, of a fit 1):

- coreset: from the features of all good images in memory to the 10 % picked. Ours: random projection and greedy
  choice. anomalib's: `KCenterGreedy.sample_coreset`, for a part of its picks; each costs the same, so the rest is
  extrapolated.
- fit: from files to a model. Ours: `Inspector.fit`, held-out calibration included. anomalib's: its reader and resizing
  in as many processes as there are cores, its modules in training in their order, and PatchCore's coreset as above;
  without its Lightning engine and without its validation, which chooses the threshold.
- image: ours from the decoded array to verdict, regions and map at the original size. anomalib's: only the model, from
  a tensor that is resized and normalised to score and map at the working size; in torch, and as its exporter writes it
  in OpenVINO, in float32 and in the precision that OpenVINO picks for this processor. The authors' scheme: features as
  anomalib's, `IndexFlatL2.search` (k = 1) and the largest distance; no map. Each turn is one call to warm up and one
  that counts.

Accuracy: all judge the test images, each with its own way of reading and resizing; maps are brought to the images' own
size, and pixels that a method does not look at are left out.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import versus_rows
from versus_coreset import all_features, seconds, time_coresets, unlikeness
from versus_environment import contender, environment, installed, say
from versus_rows import AUTHORS, EFFICIENT_AD, ENGINES, PADIM, PATCHCORE, PEERS, UNTAUGHT, Peer, Row

from goodparts import Dataset, GoodpartsError, Inspector, Recipe, parallel, read_dataset
from goodparts.backbones.backbone import cut_down
from goodparts.backbones.catalogue import load_backbone
from goodparts.data.images import read_image

RATIO = 0.1
PLAIN = "goodparts, `plain`"
Call = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone", type=Path)
    parser.add_argument(
        "--only", nargs="+", choices=tuple(PEERS), default=tuple(PEERS), help="these beside us"
    )
    parser.add_argument(
        "--resnet18", type=Path, metavar="FILE", help="PaDiM's network, with layer1 to layer3"
    )
    parser.add_argument("--efficient-ad-teacher", type=Path, metavar="FILE", help="its pretrained teacher")
    parser.add_argument(
        "--imagenette", type=Path, metavar="DIR", help="images of other things, for EfficientAD"
    )
    parser.add_argument("--train-minutes", type=float, default=5, help="for what needs training (5)")
    parser.add_argument(
        "--size", type=int, default=224, help="working size of BACKBONE's rows in pixels (224)"
    )
    parser.add_argument("--env", type=Path, help="folder of the other environment, kept and used again")
    parser.add_argument("--shim", type=Path, help="Python file to import before torchvision")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and picks, a third of the test images"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("versus: terminated"))
    check(options)
    try:
        with ExitStack() as stack:
            run(options, stack)
    except KeyboardInterrupt:
        sys.exit("versus: interrupted")
    except GoodpartsError as error:
        sys.exit(f"versus: {error}")


def check(options: argparse.Namespace) -> None:
    """End with a sentence where a file or folder that was named is not there."""
    for name in ("shim", "resnet18", "efficient_ad_teacher"):
        path = getattr(options, name)
        if path and not path.is_file():
            sys.exit(f"versus: --{name.replace('_', '-')} {path}: there is no such file")
    if options.imagenette and not any(path.is_dir() for path in options.imagenette.glob("*")):
        sys.exit(f"versus: --imagenette {options.imagenette}: expected a folder of folders of images")
    if bool(options.imagenette) != bool(options.efficient_ad_teacher):
        sys.exit("versus: --efficient-ad-teacher and --imagenette: give both; EfficientAD learns from both")


def run(options: argparse.Namespace, stack: ExitStack) -> None:
    data = read_dataset(options.data)
    data = replace(data, test=data.test[:: 3 if options.quick else 1])
    peers = [peer for name, peer in PEERS.items() if name in options.only]
    without = [PADIM] if PADIM in peers and not options.resnet18 else []
    peers = [peer for peer in peers if peer not in without]
    match = Match.of(options, data, stack)
    calls = {peer: match.start(peer) for peer in peers}
    rows: dict[str, Row] = {}
    details = coreset_details(match, calls[PATCHCORE]) if PATCHCORE in calls else None
    inspectors = fit_ours(match, rows, plain=PATCHCORE in calls or AUTHORS in calls)
    for peer, call in calls.items():
        say(f"fit, {peer.name}")
        rows[peer.name] = fit_theirs(match, peer, call, inspectors, details)
    time_image(match, calls, inspectors, rows)
    scores = judge(match, calls, inspectors, rows)
    disk = {"goodparts": installed(Path(sys.executable), "goodparts")}
    disk["anomalib"] = installed(match.python, "anomalib", "torch", "torchvision")
    disk["authors' scheme"] = installed(match.python, "torch", "torchvision", "faiss-cpu")
    say(None)

    print(
        f"\n{versus_rows.machine()}. {data.name}: {len(data.train)} good images, {len(data.test)} to test with.\n"
    )
    for peer in without:
        print(f"No row for {peer.name}: its network is not given (--{peer.network} FILE).\n")
    versus_rows.print_rows(rows)
    if details:
        versus_rows.table(
            details.title, "s", {"goodparts": details.ours, "anomalib (extrapolated)": details.theirs}
        )
        print(f"Features of an image, anomalib's against ours: {details.unlikeness:.0e} apart, relatively.\n")
    if PLAIN in inspectors:
        versus_rows.table_of_scores({PLAIN: scores.pop(PLAIN), **scores}, data)
    sizes = {name: size / 1e6 for name, size in disk.items()}
    versus_rows.table("Installed, with all that is required", "MB", sizes)


@dataclass(frozen=True)
class Match:
    """What all steps need: the images, a folder to work in, and how a contender is started."""

    options: argparse.Namespace
    data: Dataset
    work: Path
    python: Path
    stack: ExitStack

    @staticmethod
    def of(options: argparse.Namespace, data: Dataset, stack: ExitStack) -> Match:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="versus-")))
        return Match(options, data, work, environment(options.env or work / "env"), stack)

    @property
    def good(self) -> list[str]:
        return [str(path.absolute()) for path in self.data.train]

    @property
    def plain(self) -> Recipe:
        """PatchCore's own bank, which others can search: features and distances as they are."""
        recipe = Recipe.preset("plain").replace({"backbone": str(self.options.backbone)})
        changes = {"layers": PATCHCORE.layers, "image_size": self.options.size, "precision": "f32"}
        return recipe.replace({**changes, "sampling_ratio": RATIO, "sampling_limit": 0})

    def start(self, peer: Peer, suffix: str = "") -> Call:
        """A process of its own; what is given calls a method of it."""
        network = self.work / f"{peer.kind}-network.onnx"
        if peer.network and not network.is_file():
            loaded = load_backbone(str(getattr(self.options, peer.network)))
            onnx.save(cut_down(loaded, Recipe(layers=peer.layers)).model, network)
        arguments = [peer.kind, str(network), f"--size={self.options.size}", f"--threads={parallel.cores()}"]
        arguments += [f"--shim={self.options.shim.absolute()}"] if self.options.shim else []
        log = self.work / f"{peer.kind}{suffix}.log"
        return self.stack.enter_context(contender(self.python, arguments, log))


@dataclass(frozen=True)
class Coresets:
    """Seconds to choose the bank: ours, and anomalib's, extrapolated."""

    title: str
    ours: float
    theirs: float
    unlikeness: float


# ---- what is measured


def coreset_details(match: Match, theirs: Call) -> Coresets:
    recipe, data = match.plain, match.data
    features = all_features(data, cut_down(load_backbone(recipe.backbone), recipe), recipe)
    first = features[: len(features) // len(data.train)]
    apart = unlikeness(theirs, first, data.train[0], recipe, match.work)
    count = round(RATIO * len(features))
    picks = min(count, 50 if match.options.quick else 200)
    title = (
        f"Coreset, {RATIO:.0%} of {len(features):,} x {features.shape[1]:,}; anomalib's from {picks} picks"
    )
    return Coresets(
        title,
        *time_coresets(theirs, features, count, picks, 1 if match.options.quick else 2, match.work),
        apart,
    )


def fit_ours(match: Match, rows: dict[str, Row], *, plain: bool) -> dict[str, Inspector]:
    recipes = {f"goodparts, `{name}`": Recipe.preset(name) for name in ("default", "fast")}
    if plain:
        recipes[PLAIN] = match.plain
    inspectors = {}
    for name, recipe in recipes.items():
        say(f"fit, {name}")
        inspectors[name] = Inspector(recipe)
        fit = seconds(lambda of=inspectors[name]: of.fit(match.data.train))
        rows[name] = versus_rows.row_of_ours(inspectors[name], fit)
    return inspectors


def fit_theirs(
    match: Match, peer: Peer, call: Call, inspectors: dict[str, Inspector], details: Coresets | None
) -> Row:
    options, row = match.options, versus_rows.row_of(peer, match.options)
    facts: dict[str, Any] = {}
    if peer in (PATCHCORE, AUTHORS):
        np.save(match.work / "bank.npy", inspectors[PLAIN].model.bank.features)
        row.bank = f"{len(inspectors[PLAIN].model.bank.features):,}"
        if peer is PATCHCORE and details:
            forward = call("extract", images=match.good)
            row.fit = f"{forward + details.theirs:,.0f} (extrapolated)"
            facts = {"extrapolated": f"{details.theirs:,.0f}"}
        call("use_bank", bank=str(match.work / "bank.npy"))
    else:
        given: dict[str, Any] = {"images": match.good}
        if peer is EFFICIENT_AD:
            given |= {"minutes": options.train_minutes, "teacher": text(options.efficient_ad_teacher)}
            given |= {"imagenette": text(options.imagenette)}
        facts = call("fit", **given)
        row.fit, row.bank = (
            f"{facts['seconds']:,.0f}",
            f"{facts['entries']:,}" if "entries" in facts else "none",
        )
    unlike = peer.unlike
    if peer is EFFICIENT_AD and not options.efficient_ad_teacher:
        unlike, row.fit = UNTAUGHT, f"{facts['of'] * facts['step'] / 3600:.0f} hours (extrapolated)"
    row.unlike = unlike.format(minutes=options.train_minutes, **facts)
    return row


def time_image(
    match: Match, calls: dict[Peer, Call], inspectors: dict[str, Inspector], rows: dict[str, Row]
) -> None:
    """Time one image, all in turn, and put the medians into the rows."""
    path = match.data.test[0].path
    turns: dict[tuple[str, str], Callable[[], float]] = {}
    pixels = read_image(path)
    for name, inspector in inspectors.items():
        turns[name, "torch"] = lambda inspector=inspector: second(lambda: inspector.inspect_pixels(pixels))
    for peer, call in calls.items():
        turns[peer.name, "torch"] = lambda call=call: call("inspect", image=str(path.absolute()))
        if not peer.exports:
            continue
        say(f"exporting {peer.name}")
        exported = str(match.work / f"{peer.kind}.onnx")
        call("export", to=exported, image=str(path.absolute()))
        in_torch = call("judge_all", images=[str(path.absolute())])[0]
        for engine in list(ENGINES)[1:]:
            other = match.start(peer, f"-{engine}")
            other("use_export", exported=exported, precision=ENGINES[engine])
            ratio = other("judge_all", images=[str(path.absolute())])[0] / in_torch
            if abs(ratio - 1) > 0.02:
                rows[
                    peer.name
                ].unlike += f". In OpenVINO, {engine}, an image's score is {ratio:.2f} times torch's"
            turns[peer.name, engine] = lambda other=other: other("inspect", image=str(path.absolute()))
    samples = defaultdict(list)
    rounds = 5 if match.options.quick else 15
    for index in range(rounds):
        say(f"image, round {index + 1} of {rounds}")
        for key, turn in turns.items():
            samples[key].append(turn())
    for (name, engine), values in samples.items():
        rows[name].image[engine] = 1000 * median(values)


def judge(
    match: Match, calls: dict[Peer, Call], inspectors: dict[str, Inspector], rows: dict[str, Row]
) -> dict[str, list[float]]:
    """Judge the test images, put the accuracy into the rows, and return the scores of who searched the same bank."""
    scores = {}
    for name, inspector in inspectors.items():
        say(f"test images, {name}")
        found = versus_rows.of_ours(rows[name], inspector, match.data)
        if name == PLAIN:
            scores[name] = found
    images = [str(sample.path.absolute()) for sample in match.data.test]
    for peer, call in calls.items():
        if peer is EFFICIENT_AD and not match.options.efficient_ad_teacher:
            continue
        say(f"test images, {peer.name}")
        maps = None if peer is AUTHORS else match.work / "maps.npy"
        found = call("judge_all", images=images, to=text(maps))
        versus_rows.of_theirs(
            rows[peer.name], peer, match.data, found, None if maps is None else np.load(maps)
        )
        if peer is PATCHCORE:
            scores["anomalib, 1 neighbour in the score"] = call("largest_distances")
        if peer in (PATCHCORE, AUTHORS):
            scores[peer.name] = found
    return scores


def second(run: Callable[[], object]) -> float:
    """Seconds of the second of two goes."""
    run()
    return seconds(run)


def text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


if __name__ == "__main__":
    main()
