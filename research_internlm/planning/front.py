"""The front of hours and card-hours as lines and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from research_internlm.model.device_memory import GIB, MARGIN, memory_limit
from research_internlm.planning import lengths, points, search, step_sources
from research_internlm.planning.run_hours import SAVE_BYTES_PER_SECOND
from research_internlm.planning.search import Choice, Job
from research_internlm.shared.files import publish, staging

_HEADER = (f"{'':>3} {'cards':>5} {'rows x length':>14} {'layout':<6} {'recompute':<9} "
           f"{'samples/update':>14} {'updates':>8} {'lost':>6} {'GiB':>5} {'hours':>7} {'card-hours':>10}")


def describe(job: Job, own: Choice | None, narrow: Sequence[Choice], wide: Sequence[Choice],
             price: float | None) -> Iterator[str]:
    """Lines on the front.

    Args:
        job: What was searched.
        own: The recipe's own settings; None where they cannot be planned.
        narrow: The front within the band, in the order of its numbers.
        wide: Choices outside it that are cheaper still.
        price: CNY a card-hour, or None.
    """
    low, high = search.BAND
    limit = memory_limit(job.recipe)
    yield (f"choices ({job.model.source}): {low:g} to {high:g} samples an update (the report: "
           f"{search.REPORT_SAMPLES}), at most {job.cards} cards, {limit / GIB:.1f} GiB a card "
           f"({MARGIN:.0%} below max_device_memory), with evaluation and saves:")
    yield _HEADER + ("" if price is None else f" {'CNY':>9}")
    if own:
        yield _line("", own, job, price)
    for number, choice in enumerate(narrow, 1):
        yield _line(str(number), choice, job, price)
    if not narrow:
        yield f"  none fits: more cards, shorter rows or another --saves ({job.model.source})"
    if wide:
        least, most = search.WIDE_BAND
        yield (f"outside the band ({least:g} to {most:g} samples an update): the "
               "updates are others in number, and need another learning rate; the one shown follows the "
               "square root rule and is not tried:")
        for number, choice in enumerate(wide, len(narrow) + 1):
            yield f"{_line(str(number), choice, job, price)}  learning_rate {choice.learning_rate:.2g}" + (
                f", {choice.steps.total / own.steps.total:.2f} x the recipe's updates" if own else "")
    yield from _lost_lines(job)
    for text in job.model.unknown:
        yield f"  {text}"
    if not job.model.is_probed:
        yield f"  the {points.TABLE_NAME}: {points.TABLE_SOURCE}; scripts/probe.sh measures your own device"
        yield f"  {step_sources.published(job.recipe)}"
    yield ("  hours of several cards are those of one: nothing is taken for their exchange; saves write "
           f"{job.bytes_per_second / 1e9:.1f} GB/s, " + (
               "which was not measured on an NPU's host" if job.bytes_per_second == SAVE_BYTES_PER_SECOND
               else "measured by the probe"))


def _line(number: str, choice: Choice, job: Job, price: float | None) -> str:
    shape, hours = choice.shape, choice.hours.total
    text = (f"{number or 'own':>3} {choice.cards:>5} {f'{shape.rows} x {shape.seq_length}':>14} "
            f"{'packed' if shape.packed else 'padded':<6} {'yes' if shape.recompute else 'no':<9} "
            f"{choice.samples:>14.1f} {choice.steps.total:>8,} {choice.lost:>6,} "
            f"{choice.memory_bytes / GIB:>5.1f} {hours.best:>7.2f} {choice.card_hours.best:>10.2f}")
    if price is not None:
        text += f" {choice.card_hours.best * price:>9,.0f}"
    if hours.is_wide:
        text += f"  {hours.low:.2f} to {hours.high:.2f} h"
    return text + ("" if job.model.is_probed else f"  [{job.model.source}]")


def _lost_lines(job: Job) -> Iterator[str]:
    counts = {length: lengths.lost(job.samples, length, job.longest) for length in search.row_lengths(job)}
    if found := [f"{length}: {count:,} ({count / job.samples:.2%})"
                 for length, count in counts.items() if count]:
        yield (f"  samples longer than a row, which the converter leaves out and lists: {', '.join(found)}; "
               f"rows that lose more than {search.MOST_LOST:.1%} are not searched")


def draw(own: Choice | None, narrow: Sequence[Choice], wide: Sequence[Choice], found: Sequence[Choice],
         source: str, path: str | Path) -> None:
    """Draws hours against card-hours: all choices pale, both fronts, and the recipe's own settings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([one.total_hours for one in found], [one.card_hours.best for one in found], s=8,
                 color="lightgray", label="all that fit")
    for front, color, label in ((wide, "tab:orange", "outside the band"), (narrow, "tab:blue", "front")):
        if front:
            axes.plot([one.total_hours for one in front], [one.card_hours.best for one in front], marker="o",
                      color=color, label=f"{label}: cards, rows x length")
    for number, one in enumerate([*narrow, *wide], 1):
        axes.annotate(f"{number}: {one.cards}, {one.shape.rows} x {one.shape.seq_length}",
                      (one.total_hours, one.card_hours.best), textcoords="offset points", xytext=(6, 4),
                      fontsize=8)
    if own:
        axes.scatter([own.total_hours], [own.card_hours.best], marker="*", s=140, color="tab:red",
                     label="the recipe as it is")
    axes.set(xscale="log", yscale="log", xlabel="hours", ylabel="card-hours", title=f"Hours from: {source}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with staging(Path(path).parent) as folder:
        # No creation date inside: the same numbers give the same bytes.
        figure.savefig(folder / "figure.png", dpi=120, metadata={"Software": None})
        publish(folder / "figure.png", Path(path))
