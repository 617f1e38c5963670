"""What fewer misses need: what lower thresholds do to good parts and bad ones, in words and a table.

The figures are those of `goodparts.decision.trade_offs`; card, page and command line show them from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from goodparts.decision.binomial import clopper_pearson, upper_rate
from goodparts.decision.good_scores import COPIES
from goodparts.decision.trade_offs import TradeOff, trade_offs
from goodparts.evaluation.evaluation import Evaluation
from goodparts.model.model import Model
from goodparts.report.hints import hints
from goodparts.report.sections import Section, Table, percent

FEWER_MISSES = "What fewer misses need"
ELSE = "What else to try"

_TYPED = "goodparts calibrate MODEL"
_EVALUATE = "`goodparts evaluate MODEL DATA` says what each threshold misses."


def miss_sections(model: Model, evaluation: Evaluation | None = None) -> tuple[Section, ...]:
    """What fewer misses need, and what else to try; nothing while there is no threshold.

    Args:
        model: whose threshold is in force.
        evaluation: of it, on a labelled test set.
    """
    rows = rows_of(model, evaluation)
    if not rows:
        return ()
    now = next(row for row in rows if row.in_force)
    section = _of_bad_parts(model, rows, now) if now.bad else _of_good_parts(model, rows, now, evaluation)
    tried = hints(model, rows)
    if not tried:
        return (section,)
    first = "Fit anew with one at a time and evaluate again: only your own bad parts tell whether it helps."
    return section, Section(ELSE, (first, *tried), wide=True)


def rows_of(model: Model, evaluation: Evaluation | None = None) -> tuple[TradeOff, ...]:
    """The trade-offs of an evaluation; without one those of good parts alone."""
    return evaluation.trade_offs if evaluation else trade_offs(model.calibration, model.recipe)


def _of_bad_parts(model: Model, rows: Sequence[TradeOff], now: TradeOff) -> Section:
    """With labelled bad parts, some of which may be missed."""
    confidence = percent(model.recipe.confidence)
    missed = (
        f"{now.missed or 'None'} of {_parts(now.bad, 'bad')} {'was' if now.missed <= 1 else 'were'} missed"
    )
    if not now.missed:
        most = percent(upper_rate(0, now.bad, model.recipe.confidence))
        line = f"{missed}, so at most {most} of parts like these are ({confidence} confidence). More of them say more."
        return Section(FEWER_MISSES, (line,))
    lower = [row for row in rows if row.alternative]
    lines = []
    if lower:
        lines += [
            f"{missed}. A lower threshold misses fewer, and rejects more good parts.",
            _how_to_set(lower[0], now),
            _at_most(model, now),
            *_more_than_that(now),
            "These thresholds come from good parts only. But who picks one by its misses has picked it on test images: "
            "expect more misses among new parts, and measure again on other bad parts.",
        ]
    else:
        lines.append(f"{missed}, and no lower threshold above the average good score misses fewer.")
    if lower and (left := lower[-1].missed):
        lines.append(
            f"{left} of the missed {'scores' if left == 1 else 'score'} no higher than an average good part: no "
            f"threshold finds {'it' if left == 1 else 'them'} without rejecting about half of these."
        )
    if any(row.oracle for row in rows):
        lines.append(
            "The oracle has the best F1 on these very test images, which flatters it: for comparison only."
        )
    return Section(FEWER_MISSES, tuple(lines), _table(rows, now), wide=True)


def _of_good_parts(
    model: Model, rows: Sequence[TradeOff], now: TradeOff, evaluation: Evaluation | None
) -> Section:
    """Without bad parts: what lower thresholds do to good ones, and how to find out about bad ones."""
    known = model.evaluation
    if evaluation is None and known is not None and known.bad:
        lines = [
            f"{known.missed} of {_parts(known.bad, 'bad')} {'was' if known.missed <= 1 else 'were'} missed in the last "
            f"evaluation. {_EVALUATE}"
        ]
    else:
        lines = [
            "How many bad parts pass can't be told without bad parts. Collect some, each kind of defect in a folder of "
            f"its own below DATA/test, and good parts in DATA/test/good: {_EVALUATE}",
        ]
    lower = [row for row in rows if row.alternative]
    if not lower:
        return Section(FEWER_MISSES, tuple(lines))
    more = "A lower threshold misses fewer, and rejects more good parts."
    if model.calibration.used.source == COPIES:
        lines.append(f"{more} How many can't be told from one good image. `{lower[0].command}` sets one.")
        return Section(FEWER_MISSES, tuple(lines))
    lines += [more, _how_to_set(lower[0], now), _at_most(model, now)]
    return Section(FEWER_MISSES, tuple(lines), _table(rows, now), wide=True)


def _how_to_set(row: TradeOff, now: TradeOff) -> str:
    back = f"; `{now.command}` goes back" if now.command else ""
    return f"A threshold is set by what stands last in its row, such as `{row.command}`{back}."


def _at_most(model: Model, now: TradeOff) -> str:
    """How sure the share of rejected good parts is."""
    never = "never learnt from" if model.calibration.used.certifies else "each scored as if not learnt from"
    return (
        f'"At most" is the share of new good parts. It rests on {_parts(now.good_scores, "good")}, {never}, and is '
        f"right in {percent(model.recipe.confidence)} of cases."
    )


def _more_than_that(now: TradeOff) -> Iterator[str]:
    """Where more good parts of the test set are rejected than held-out scores of the others allow."""
    if now.good and clopper_pearson(now.rejected, now.good)[0] > now.rate_at_most:
        yield (
            f"In the test set {now.rejected} of {_parts(now.good, 'good')} were rejected, more than that allows: they "
            "are less like those learnt from than these are like each other. Calibrate on good images that were never "
            "learnt from: `goodparts calibrate MODEL FOLDER`."
        )


def _table(rows: Sequence[TradeOff], now: TradeOff) -> Table:
    """Threshold, good parts rejected, bad parts missed, and what to type."""
    height = "× threshold now" if now.zones else "threshold"
    head = (height, "good rejected", *(["bad missed"] if now.bad else []), "new good, at most", _TYPED)
    return Table(head, tuple(_cells(row, now) for row in rows))


def _cells(row: TradeOff, now: TradeOff) -> tuple[str, ...]:
    rejected = _share(row.rejected, row.good)
    if not now.bad:
        rejected = _share(row.good_scores_above, row.good_scores)
    missed = [_share(row.missed, row.bad)] if now.bad else []
    typed = "in force" if row.in_force else row.flags or "for comparison only"
    if row.oracle:
        typed = f"an oracle, {typed}"
    return _height(row, now), rejected, *missed, percent(row.rate_at_most), typed


def _height(row: TradeOff, now: TradeOff) -> str:
    """The threshold; of several zones how it lies to that in force, from the least of them to the most."""
    if not now.zones:
        return f"{row.threshold:.4g}"
    shares = [own / before for own, before in zip(row.zones, now.zones, strict=True)]
    low, high = f"{min(shares):.3g}", f"{max(shares):.3g}"
    return low if low == high else f"{low} to {high}"


def _share(count: int, total: int) -> str:
    """A count beside its share: "1 of 30, 3.33 %"."""
    return f"{count} of {total}, {percent(count / total)}" if total else "none tested"


def _parts(count: int, kind: str) -> str:
    return f"{count} {kind} part{'s' * (count != 1)}"
