"""``python -m etram_det simulate``: write simulated traffic in eTraM's own layout."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from etram_det.boxes import BOX_DTYPE, corners
from etram_det.data.labels import ETRAM_CLASSES
from etram_det.drawing.frames import draw_boxes, frame_image
from etram_det.drawing.video import LEAST_HEIGHT, VideoWriter
from etram_det.progress import screen, shown_progress
from etram_det.report.tables import number_of
from etram_det.simulator.dataset import (
    AMOUNTS,
    MANIFEST,
    Plan,
    SimulationSettings,
    plan_set,
    require_new,
    simulate,
)
from etram_det.simulator.preview import recording_as_seen

# Bounds of small and large boxes, in pixels of a network that sees half the sensor's size.
_SMALL_AREA, _LARGE_AREA = 32**2, 96**2
_LABELS_HZ = 30
_WIDEST = 4096  # pixels of one half of a preview: encoders refuse pictures of many more


def simulate_command(
    output: Path,
    settings: SimulationSettings = SimulationSettings(),  # noqa: B008 (frozen)
    amount: Literal["quick", "standard"] = "quick",
    preview: bool = False,
    workers: int | None = None,
) -> None:
    """Make a set of simulated traffic in eTraM's own layout.

    Args:
        output: folder to make; it may be there if it is empty.
        settings: what to simulate.
        amount: quick: recordings for a short training. standard: some 30 minutes of traffic.
            Numbers of recordings and seconds other than those of ``quick`` override it.
        preview: also write a video of the first recording, as light and as events.
        workers: recordings made at the same time; all cores if unset.

    Raises:
        UserError: ``output`` is there already and not an empty folder.
    """
    settings = _of_amount(settings, amount)
    require_new(output)  # before any progress is shown
    started_s = time.monotonic()
    with shown_progress("recordings") as progress:
        simulate(output, settings, workers, progress)
    plans = plan_set(settings)
    video = _write_preview(output, settings, plans[0]) if preview and plans else None
    held = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["recordings"]
    num_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    console = screen()
    for table in _summaries(output):
        console.print(table)
    total: Counter[str] = Counter()
    for counts in held.values():
        total.update(counts)
    total["caused_events"] = total["events"] + total["lost_events"]
    seconds = settings.seconds * len(held)
    turn = _share(total, "turning_tracks", "tracks")
    stand = _share(total, "standing_tracks", "tracks")
    boxes = _share(total, "standing_boxes", "boxes")
    console.out(
        "small: under 32² px, large: over 96² px, at half the sensor's size\n"
        f"of {number_of(total['tracks'], 'track')}, {turn} turn by over 30 degrees, {stand} stand "
        f"for a second\nor more and move; these have {boxes} of the boxes\n"
        f"{total['events'] / max(seconds, 1e-9) / 1e3:,.0f} k events/s, "
        f"{_share(total, 'noise_events', 'caused_events')} of them noise, "
        f"{_share(total, 'positive_events', 'events')} positive; "
        f"{number_of(total['lost_events'], 'event')} lost in the read-out\n"
        f"{number_of(len(held), 'recording')} of {settings.seconds:g} s, "
        f"{total['events'] / 1e6:.1f} M events, {num_bytes / 1e6:.0f} MB, "
        f"made in {time.monotonic() - started_s:.0f} s in {output}"
    )
    if video:
        console.out(f"preview: {video}")


def _of_amount(settings: SimulationSettings, amount: str) -> SimulationSettings:
    """The settings with the numbers of an amount, where they are the usual ones."""
    usual = SimulationSettings()
    changes: dict[str, Any] = {
        name: type(getattr(usual, name))(value)
        for name, value in AMOUNTS[amount].items()
        if getattr(settings, name) == getattr(usual, name)
    }
    return replace(settings, **changes)


def _share(total: Counter[str], part: str, whole: str) -> str:
    return f"{total[part] / total[whole]:.0%}" if total[whole] else "none"


def _summaries(output: Path) -> list[Table]:
    """For each split, tracks and boxes of each class, and the shares of small and large ones."""
    tables = []
    for split in ("train", "val", "test"):
        paths = sorted((output / split).glob("*_bbox.npy"))
        if not paths:
            continue
        of_split = [np.load(path) for path in paths]
        boxes = np.concatenate([np.zeros(0, BOX_DTYPE), *of_split])
        tracks: Counter[int] = Counter()
        for of_recording in of_split:
            pairs = np.unique(of_recording[["class_id", "track_id"]])
            tracks.update(pairs["class_id"].tolist())
        table = Table(split)
        for name in ("tracks", "boxes", "small", "large"):
            table.add_column(name, justify="right")
        for class_id, name in enumerate(ETRAM_CLASSES):
            table.add_row(name, *_cells(boxes[boxes["class_id"] == class_id], tracks[class_id]))
        table.add_section()
        table.add_row("all", *_cells(boxes, tracks.total()))
        tables.append(table)
    return tables


def _cells(boxes: NDArray[Any], tracks: int) -> list[str]:
    areas = boxes["w"].astype(np.float64) * boxes["h"] / 4
    shares = [np.mean(part) for part in (areas < _SMALL_AREA, areas > _LARGE_AREA) if len(areas)]
    return [
        f"{tracks:,}",
        f"{len(boxes):,}",
        *([f"{s:.0%}" for s in shares] or ["-", "-"]),
    ]


def _write_preview(output: Path, settings: SimulationSettings, plan: Plan) -> Path:
    """Write the video of a recording, boxes drawn into its events."""
    zoom = max(1, min(-(-LEAST_HEIGHT // settings.height), _WIDEST // settings.width))
    height, width = settings.height * zoom, settings.width * zoom
    video = VideoWriter(
        output / f"{plan.name}_preview.mp4", (height - height % 2, 2 * width), _LABELS_HZ
    )
    try:
        for light, counts, boxes in recording_as_seen(settings, plan):
            pictures = [
                each.repeat(zoom, 0).repeat(zoom, 1) for each in (light, frame_image(counts))
            ]
            draw_boxes(pictures[1], corners(boxes) * zoom, boxes["class_id"], ETRAM_CLASSES)
            video.add(np.concatenate(pictures, 1)[: video.size[0]])
    finally:
        video.finish()
    return video.path
