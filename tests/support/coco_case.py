"""A COCO ground truth and results with fractional coordinates, and what COCO's own code gives."""

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

NUM_FRAMES, NUM_CLASSES = 1000, 80
STATS = "AP AP50 AP75 AP_small AP_medium AP_large AR1 AR10 AR AR_small AR_medium AR_large".split()


def coco_case(with_crowds):
    """Ground truth and results as JSON has them, with many IoUs of exactly 0.5, 0.75 and 1."""
    rng = np.random.default_rng(3)
    names = [f"class{i}" for i in range(NUM_CLASSES)]
    categories = [{"id": 2 * i + 1, "name": name} for i, name in enumerate(names)]
    images, truth, found = [], [], []

    def add(boxes, category, **others):
        image = {"image_id": images[-1]["id"], "category_id": 2 * int(category) + 1}
        boxes.append(image | {"bbox": [float(x) for x in others.pop("box")], **others})

    def random_box():
        return [*rng.uniform(0, 400, 2).round(2), *np.exp(rng.uniform(2, 5.3, 2)).round(2)]

    def score():
        return round(rng.uniform(), 2)

    for i in range(NUM_FRAMES):
        time_us = 100_000 * (i // 20 + 1)
        name = f"recording_{i % 20}_{time_us}"
        images.append({"id": i + 1, "file_name": name, "width": 640, "height": 480, "t": time_us})
        for _ in range(rng.integers(0, 12)):
            x, y, w, h = box = random_box()
            category, crowd = rng.integers(0, NUM_CLASSES), int(rng.random() < 0.02)
            if with_crowds or not crowd:
                own = {"id": len(truth) + 1, "area": float(w * h), "iscrowd": crowd}
                add(truth, category, box=box, **own)
            moved = [*rng.normal([x, y], 2).round(2), w, h]
            variants = [[x, y, round(w * 0.75, 4), h], [x, y, w, round(h * 0.5, 4)], box, moved]
            for _ in range(rng.integers(0, 3)):
                add(found, category, box=variants[rng.integers(0, 4)], score=score())
        for _ in range(4):
            add(found, rng.integers(0, NUM_CLASSES), box=random_box(), score=score())
    return {"images": images, "annotations": truth, "categories": categories}, found


def coco_stats(truth, found):
    """COCO's twelve metrics, of a dictionary or the path of a file, and results."""
    reference = COCO(truth)
    evaluation = COCOeval_faster(
        reference, reference.loadRes(found), "bbox", print_function=lambda *args, **others: None
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return list(evaluation.stats[: len(STATS)])
