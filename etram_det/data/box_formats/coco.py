"""COCO JSON: ground truth and lists of results."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import NO_TRACK
from etram_det.data.box_formats.naming import (
    NO_TIME,
    UNKNOWN_CLASS,
    ClassSettings,
    NamedImage,
    Place,
    TimeSettings,
    places_of,
)
from etram_det.data.box_formats.table import BoxTable, LeftOut, Reason, TableBuilder
from etram_det.errors import UserError
from etram_det.files import write_text

_log = logging.getLogger(__name__)

UNKNOWN_IMAGE = Reason(
    "boxes of images that are not listed",
    "use the image ids of the file that lists the images: labels list their own under images, for "
    "detections set images to the COCO file of the ground truth",
)
NOT_LISTED = Reason(
    "boxes whose images are known by a number alone",
    "set images to the COCO file that lists them, such as that of the ground truth",
)
SAME_ID = Reason("images of one id, of which the last is used", "give each image an id of its own")
SAME_TIME = Reason(
    "images of one recording and time, of which the first is used",
    "set times.pattern to take recording and time from the images' names",
)
NO_BOX = Reason(
    "boxes without four finite numbers, the last two at least 0", "correct them or take them out"
)
NO_SCORE = Reason("detections without a score", "add a score to each")
BAD_TRACK = Reason("track ids other than 0 to 4294967294, whose boxes are kept without a track")


@dataclass(frozen=True)
class Listing:
    """The images and categories that annotations refer to.

    Attributes:
        places: recording and time of each image by its id, or why it has none.
        names: of the images by id.
        categories: name of each category by its id.
        twice: names of images whose id another image has, too.
    """

    places: Mapping[Any, Place]
    names: Mapping[Any, str]
    categories: Mapping[Any, str]
    twice: Sequence[str] = ()


def load_coco(path: Path) -> Any:
    """What a JSON file holds: a ground truth or a list of results.

    Raises:
        UserError: it is neither.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: must be JSON, got {error}: fetch it again") from error
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not _is_list_of_objects(annotations) or not all(
        _is_list_of_objects(content.get(key, []))
        for key in ("images", "categories", "videos")
        if isinstance(content, dict)
    ):
        raise UserError(
            f"{path}: must be a COCO ground truth with images and annotations, or a list of "
            "results, got other JSON: export it as COCO"
        )
    return content


def _is_list_of_objects(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(each, dict) for each in content)


def category_names(content: Any) -> list[str]:
    """Names of the categories of a ground truth in the order of their ids."""
    categories = content.get("categories", []) if isinstance(content, dict) else []
    named = [each for each in categories if "id" in each and "name" in each]
    return [str(each["name"]) for each in sorted(named, key=lambda each: str(each["id"]).zfill(12))]


def listing_of(content: Any, path: Path, times: TimeSettings) -> Listing | None:
    """The images and categories of a ground truth; None where it lists no images."""
    if not isinstance(content, dict) or "images" not in content:
        return None
    videos = {
        _key(each.get("id")): str(each["name"])
        for each in content.get("videos", [])
        if "name" in each
    }
    by_id: dict[Any, Mapping[str, Any]] = {}
    twice = []
    for each in content["images"]:
        key = _key(each.get("id"))
        if key in by_id:
            twice.append(str(by_id[key].get("file_name", key)))
        of_video = videos.get(_key(each.get("video_id")))
        by_id[key] = each if of_video is None else {"video": of_video, **each}
    ids = sorted(by_id, key=lambda key: (isinstance(key, str), key))
    images = [NamedImage(str(by_id[key].get("file_name", key)), by_id[key]) for key in ids]
    places = places_of(images, times, path, all_listed=True)
    return Listing(
        dict(zip(ids, places, strict=True)),
        {key: image.name for key, image in zip(ids, images, strict=True)},
        {
            _key(each.get("id")): str(each.get("name", each.get("id")))
            for each in content.get("categories", [])
        },
        twice,
    )


def _key(number: Any) -> Any:
    """An id as a number or a text, whatever JSON has in its place."""
    return number if isinstance(number, int | float | str) else repr(number)


def _listing_of_ids(
    annotations: Sequence[Mapping[str, Any]], path: Path, times: TimeSettings
) -> Listing:
    """Images by the ids of results alone, which are their names or indices."""
    ids = list(dict.fromkeys(_key(each.get("image_id")) for each in annotations))
    images = [NamedImage(str(each)) for each in ids]
    places = [
        NOT_LISTED if place is NO_TIME and image.name.isdecimal() else place
        for image, place in zip(
            images, places_of(images, times, path, all_listed=False), strict=True
        )
    ]
    names = {each: str(each) for each in ids}
    return Listing(dict(zip(ids, places, strict=True)), names, {})


def coco_table(
    content: Any,
    path: Path,
    classes: ClassSettings,
    times: TimeSettings,
    *,
    scored: bool,
    listing: Listing | None = None,
) -> tuple[BoxTable, LeftOut]:
    """The boxes of a ground truth or of results, and what was left out.

    Args:
        content: of :func:`load_coco`.
        path: the file, for names and messages.
        classes: which class each category is. Where no categories are known, their ids are class
            ids.
        times: where the images' times are.
        scored: whether these are detections, which need scores.
        listing: the images and categories of results that list none themselves.
    """
    annotations = content["annotations"] if isinstance(content, dict) else content
    listing = listing_of(content, path, times) or listing
    listing = listing or _listing_of_ids(annotations, path, times)
    if not listing.categories:
        names = ", ".join(classes.class_names)
        _log.info("%s: no categories: category ids count from 0 in %s", path, names)
    builder, left_out = TableBuilder(), LeftOut()
    class_ids: dict[Any, int | Reason] = {}
    frames = _frames_of(listing, builder, left_out)
    for number, each in enumerate(annotations, start=1):
        where = f"annotation {each.get('id', number)}"
        image, category = _key(each.get("image_id")), _key(each.get("category_id"))
        name = listing.categories.get(category)
        if category not in class_ids:
            is_unknown = name is None and bool(listing.categories)
            class_ids[category] = UNKNOWN_CLASS if is_unknown else classes.class_id(name, category)
        class_id = class_ids[category]
        score = each.get("score")
        if not scored and score in (None, ""):
            score = 1.0
        track = _track_of(each)
        if track is None:
            left_out.add(BAD_TRACK, where)
            track = -1
        if image not in listing.places:
            left_out.add(UNKNOWN_IMAGE, f"image_id {image!r}")
        elif image not in frames:
            continue  # counted with its image
        elif isinstance(class_id, Reason):
            left_out.add(class_id, repr(name or category))
        elif (box := _numbers(each.get("bbox"), 4)) is None or min(box[2:]) < 0:
            left_out.add(NO_BOX, where)
        elif (scores := _numbers([score], 1)) is None:
            left_out.add(NO_SCORE, where)
        else:
            crowd = bool(each.get("iscrowd", 0))
            builder.add(frames[image], box, class_id, scores[0], track, crowd)
    return builder.table(), left_out


def _frames_of(listing: Listing, builder: TableBuilder, left_out: LeftOut) -> dict[Any, int]:
    """The frame of each listed image by its id, of those that have a place of their own."""
    frames, taken = {}, set()
    for other in listing.twice:
        left_out.add(SAME_ID, repr(other))
    for image, place in listing.places.items():
        if isinstance(place, Reason):
            left_out.add(place, repr(listing.names[image]))
        elif place in taken:
            left_out.add(SAME_TIME, repr(listing.names[image]))
        else:
            frames[image] = builder.frame(*place)
            taken.add(place)
    return frames


def _numbers(values: Any, count: int) -> list[float] | None:
    """So many finite numbers; None for anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    try:
        numbers = [float(each) for each in values if isinstance(each, int | float)]
    except OverflowError:
        return None
    return numbers if len(numbers) == count and all(map(isfinite, numbers)) else None


def _track_of(annotation: Mapping[str, Any]) -> int | None:
    """The id of an annotation's track, -1 for none; None for one that is no such number."""
    attributes = annotation.get("attributes")
    places = (annotation, attributes if isinstance(attributes, dict) else {})
    found = [each[key] for each in places for key in ("track_id", "instance_id") if key in each]
    return track_number(found[0]) if found else -1


def track_number(value: Any) -> int | None:
    """A track id of a file as a number, -1 for none; None for one that is no such number."""
    if value in (None, "", -1, "-1"):
        return -1
    text = str(value).removesuffix(".0")
    return int(text) if text.isdecimal() and int(text) < NO_TRACK else None


def write_coco(
    path: Path, table: BoxTable, class_names: Sequence[str], sensor_size: tuple[int, int]
) -> None:
    """Write boxes as a COCO ground truth, atomically; times in microseconds as ``t`` of images.

    Args:
        path: the file.
        table: the boxes, all of them finite.
        class_names: of the class ids, which become category ids.
        sensor_size: height and width of the images in pixels.

    Raises:
        OSError: it cannot be written.
    """
    height, width = sensor_size
    images = [
        {
            "id": i,
            "file_name": f"{recording}_{time_us}",
            "width": width,
            "height": height,
            "recording": recording,
            "t": time_us,
        }
        for i, (recording, time_us) in enumerate(
            zip(table.recording.tolist(), table.time_us.tolist(), strict=True), start=1
        )
    ]
    has_scores, has_tracks = bool((table.scores != 1).any()), table.has_tracks
    boxes, scores = shortest(table.boxes), shortest(table.scores)
    annotations = [
        {
            "id": i + 1,
            "image_id": int(table.frame[i]) + 1,
            "category_id": int(table.classes[i]),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(table.crowd[i]),
            **({"score": scores[i]} if has_scores else {}),
            **({"track_id": track} if has_tracks and (track := int(table.tracks[i])) >= 0 else {}),
        }
        for i, box in enumerate(boxes)
    ]
    parts = {
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names)],
        "images": images,
        "annotations": annotations,
    }
    texts, encode = [], json.JSONEncoder(allow_nan=False).encode
    for name, rows in parts.items():
        lines = ",\n".join(map(encode, rows))
        texts.append(f"{json.dumps(name)}: [\n{lines}\n]")
    write_text(path, "{" + ",\n".join(texts) + "}\n")


def shortest(values: NDArray[np.float64]) -> list[Any]:
    """Numbers as lists; those that are single precision by the shortest decimals that are them."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    texts = single.astype(str).astype(np.float64)
    return np.where(single == values, texts, values).tolist()
