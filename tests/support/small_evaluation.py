"""A small evaluation, its run folder, and the contents of a report's page about it."""

import json
from html.parser import HTMLParser

import numpy as np
import torch

from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.report.gallery import Gallery
from etram_det.report.page import write_report
from etram_det.report.records import results_of, write_results
from etram_det.types import Detections, Labels

CLASSES = ("pedestrian", "car", "<b>bus</b>")
HEIGHT, WIDTH = 180, 320

# Recording, time in us, labels (box, class), detections (box, class, score).
FRAMES = [
    (
        "val_day_0001",
        1_000_000,
        [((10, 10, 20, 30), 0), ((60, 60, 100, 100), 1), ((150, 20, 290, 120), 2)],
        [((10, 10, 20, 30), 0, 0.9), ((60, 60, 100, 98), 2, 0.8), ((150, 20, 290, 118), 2, 0.2)],
    ),
    (
        "val_day_0001",
        2_000_000,
        [((150, 20, 292, 120), 2), ((12, 10, 22, 30), 0)],
        [((200, 130, 220, 150), 1, 0.7), ((12, 10, 22, 31), 0, 0.4)],
    ),
    (
        "val_night_0002",
        1_000_000,
        [((60, 60, 100, 101), 1), ((150, 20, 280, 120), 2)],
        [((60, 60, 100, 101), 1, 0.6), ((61, 62, 99, 90), 1, 0.5)],
    ),
]


def evaluated(frames=FRAMES, **settings):
    settings = {"class_groups": {"VH": ["car", "<b>bus</b>"]}} | settings
    metric = SizeBinnedMAP(class_names=CLASSES, **settings)
    for name, time_us, labels, detections in frames:
        boxes, classes = zip(*labels, strict=True)
        found, ids, scores = zip(*detections, strict=True)
        metric.update(
            [
                Detections(
                    boxes=torch.tensor(found),
                    objectness=torch.ones(len(ids)),
                    class_confidence=torch.tensor(scores),
                    classes=torch.tensor(ids),
                )
            ],
            Labels.stack([0], [torch.tensor(boxes).float()], [torch.tensor(classes)]),
            [name],
            torch.tensor([time_us]),
            torch.full((1, 2), 4.0),
        )
    metric.compute()
    return metric.result


def draw_frame(recording, time_us):
    """A frame with events in the upper left quarter."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = (86, 180, 255)
    return picture, np.ones(2)


def gallery_of(result, number=12, threshold=0.3, draw=draw_frame):
    pairing = result.pairing(score_threshold=threshold)
    return Gallery(result.frames, pairing, CLASSES, draw, number)


def write_run(folder, with_gallery=True, frames=FRAMES, **settings):
    """A run folder as ``validate`` leaves it; returns what is in its metrics.json."""
    result = evaluated(frames, **settings)
    results = results_of(result, score_threshold=0.3, dropped_by_data={"outside the frame": 7})
    results["run"] = {
        "split": "val",
        "checkpoint": "a&b.ckpt",
        "data": None,
        "input_size": [HEIGHT, WIDTH],
        "version": "0.1.0",
    }
    if with_gallery:
        results["gallery"] = gallery_of(result).write(folder)
    write_results(folder, results, result)
    protocol = settings.get("protocol", "full")
    (folder / "config.yaml").write_text(f"model:\n  protocol: {protocol}\n  embed_dim: 8\n")
    return json.loads((folder / "metrics.json").read_text())


class Tables(HTMLParser):
    """Texts of the cells of each table, by its id and row; notes in small print apart."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.notes, self.images, self.links, self.text = {}, {}, [], [], ""
        self.table, self.small, self.cell = None, False, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self.table = attrs["id"]
            self.rows[self.table], self.notes[self.table] = [], []
        elif tag == "tr" and self.table:
            self.rows[self.table].append([])
            self.notes[self.table].append([])
        elif tag in ("td", "th"):
            self.cell = True
            self.rows[self.table][-1].append("")
            self.notes[self.table][-1].append("")
        elif tag == "small":
            self.small = True
        elif tag == "img":
            self.images.append(attrs["src"])
        self.links += [attrs[name] for name in ("src", "href", "xlink:href") if name in attrs]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False
        elif tag == "small":
            self.small = False
        elif tag == "table":
            self.table = None

    def handle_data(self, data):
        self.text += data
        if self.cell:
            (self.notes if self.small else self.rows)[self.table][-1][-1] += data

    def row(self, table, name):
        return next(cells[1:] for cells in self.rows[table] if cells[0] == name)


def page_of(*folders, output=None):
    return Tables(write_report(folders, output).read_text())


def shown(results, key):
    return f"{results[key]:.3f}" if key in results else "–"
