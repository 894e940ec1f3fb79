"""Event columns as others write them: read where unambiguous, refused by name where not."""

import h5py
import numpy as np
import pytest

from etram_det.data.event_facts import event_facts
from etram_det.data.fingerprint import fingerprint
from etram_det.data.layouts import open_recording
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from support.raw_files import random_events, write_raw

SIZE = (48, 64)
FRAMES = FrameSettings(input_size=SIZE, sensor_size=SIZE)
EVENTS = random_events(3000)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def whole(path, settings=FRAMES):
    recording = open_recording(path, settings)
    return recording.frames(0, len(recording))


@pytest.fixture
def expected(tmp_path):
    return whole(write_raw(tmp_path, "expected", EVENTS))


def written(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name.replace("__", "/")] = values
    return path


def table(events=EVENTS, **names):
    renamed = {names.get(name, name): column for name, column in events.items()}
    array = np.zeros(len(events["t"]), [(name, each.dtype) for name, each in renamed.items()])
    for name, column in renamed.items():
        array[name] = column
    return array


def matrix(order, events=EVENTS, dtype=np.int64):
    return np.stack([events[name].astype(dtype) for name in order], axis=1)


FORMS = {
    "a table": {"events": table()},
    "a table of other names": {"events": table(t="timestamp", p="polarity")},
    "Prophesee's table": {"CD__events": table()},
    "a matrix x y t p": {"events": matrix("xytp")},
    "a matrix t x y p": {"events": matrix("txyp")},
    "a matrix of floats": {"events": matrix("txyp", dtype=np.float64)},
    "columns at the root": EVENTS,
    "columns of other names": {f"{name}s": column for name, column in EVENTS.items()},
    "capitals": {f"events__{name.upper()}": column for name, column in EVENTS.items()},
    "floats": {f"events__{name}": column.astype(np.float64) for name, column in EVENTS.items()},
    "halves": {**EVENTS, "x": EVENTS["x"].astype(np.float16), "y": EVENTS["y"].astype(np.float16)},
    "polarity as bool": {**EVENTS, "p": EVENTS["p"].astype(bool)},
    "polarity -1 and 1": {**EVENTS, "p": 2 * EVENTS["p"] - 1},
    "polarity 255 for -1": {**EVENTS, "p": (2 * EVENTS["p"] - 1).astype(np.uint8)},
    "polarity of 32 bits": {**EVENTS, "p": (2 * EVENTS["p"] - 1).astype(np.uint32)},
    "polarity of 64 bits": {**EVENTS, "p": (2 * EVENTS["p"] - 1).astype(np.uint64)},
    "a wrapped polarity kept wide": {**EVENTS, "p": np.where(EVENTS["p"] == 1, 1, 4294967295)},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_unambiguous_gives_the_same_frames(tmp_path, form, expected):
    np.testing.assert_array_equal(whole(written(tmp_path / "a.h5", **FORMS[form])), expected)
    assert expected.sum() > 2000


def ambiguous(**changes):
    return {**{f"events__{name}": column for name, column in EVENTS.items()}, **changes}


REFUSED = {
    "two columns of one kind": (
        ambiguous(events__ts=EVENTS["t"]),
        "must hold one column t, got events/t and events/ts: keep one of them",
    ),
    "two places": (
        {**ambiguous(), **EVENTS},
        "must hold events in one place, got events and /: keep one of them",
    ),
    "a matrix without polarity": (
        {"events": np.stack([EVENTS["x"]] * 3 + [EVENTS["t"]], 1)},
        r"events \[3000, 4\] must have one column of timestamps that ascend and one of polarities",
    ),
    "coordinates with fractions": (
        ambiguous(events__x=EVENTS["x"] + 0.25),
        r"events/x must hold whole numbers, got [\d.]+: write the file with such numbers",
    ),
    "coordinates that are no numbers": (
        ambiguous(events__y=np.full(3000, np.nan)),
        "events/y must hold whole numbers, got nan",
    ),
    "another polarity": (
        ambiguous(events__p=EVENTS["p"] + 1),
        "events/p: polarities must be 0 and 1, or -1 and 1, got 2: write the file with such",
    ),
    "0 and 255": (
        ambiguous(events__p=(255 * EVENTS["p"]).astype(np.uint8)),
        "events/p: polarities must be 0 and 1, or -1 and 1, got 0 and 255: write the file with",
    ),
    "three polarities": (
        ambiguous(events__p=(np.arange(3000) % 3 - 1).astype(np.int8)),
        "events/p: polarities must be 0 and 1, or -1 and 1, got -1 and 0: write the file with",
    ),
    "five columns": ({"events": np.zeros((9, 5))}, r"got events float64 \(9, 5\)"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_ambiguous_is_refused_by_name(tmp_path, form):
    datasets, message = REFUSED[form]
    with pytest.raises(UserError, match=message) as caught:
        whole(written(tmp_path / "a.h5", **datasets))
    assert "a.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("representation", ["stacked_histogram", "mixed_density"])
def test_a_polarity_in_the_middle_is_never_read_as_another(tmp_path, representation):
    events = random_events(60_000)
    events["p"][30_000] = 7
    path = write_raw(tmp_path, "a", events)
    recording = open_recording(path, FrameSettings(representation=representation))
    recording.frames(0, 3)
    with pytest.raises(UserError, match=r"a_td.h5: p: polarities must be 0 and 1, .* got 7: write"):
        recording.frames(0, len(recording))


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def interleaved(path, chunk=500):
    """Columns that grow chunk by chunk, as a recorder writes them."""
    with h5py.File(path, "w") as file:
        file["events/height"], file["events/width"] = SIZE
        options = {"chunks": (chunk,), "compression": "gzip"}
        columns = {
            name: file.create_dataset(f"events/{name}", (3000,), column.dtype, **options)
            for name, column in EVENTS.items()
        }
        for start in range(0, 3000, chunk):
            for name, column in EVENTS.items():
                columns[name][start : start + chunk] = column[start : start + chunk]
            file.flush()
    return path


def test_a_cut_file_is_used_as_far_as_it_goes_and_said(tmp_path):
    whole_path = interleaved(tmp_path / "whole.h5")
    complete = whole(whole_path)
    assert not event_facts(whole_path).is_cut
    path = cut(interleaved(tmp_path / "cut.h5"), 0.7)
    facts = event_facts(path)
    assert facts.is_cut
    assert 500 <= facts.num_events < 2500
    recording = open_recording(path, FRAMES)
    (note,) = recording.notes
    assert note.doubtful
    assert note.message == (
        f"it was cut short, and what comes before is used, {facts.num_events:,} events"
    )
    assert fingerprint([recording])["recordings"][0]["frames"] == len(recording)
    ours = recording.frames(0, len(recording))
    num_whole = len(ours) - 1  # the last window holds part of its events
    assert num_whole > 3
    np.testing.assert_array_equal(ours[:num_whole], complete[:num_whole])
    last = {name: column[: facts.num_events] for name, column in EVENTS.items()}
    np.testing.assert_array_equal(ours, whole(write_raw(tmp_path, "part", last)))


def test_the_order_of_a_matrix_is_said_and_a_cut_one_is_used(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["height"], file["width"] = SIZE
        rows = file.create_dataset("events", (3000, 4), np.int64, chunks=(500, 4))
        for start in range(0, 3000, 500):
            rows[start : start + 500] = matrix("txyp")[start : start + 500]
            file.flush()
    order = "the columns of its matrix are taken as t, x, y, p"
    assert [note.message for note in open_recording(path, FRAMES).notes] == [order]
    recording = open_recording(cut(path, 0.7), FRAMES)
    assert [note.message for note in recording.notes][0] == order
    assert 500 <= recording.num_events < 2500
    assert recording.frames(0, 3).sum() > 100
    with pytest.raises(UserError, match="was cut short, and nothing is left of events"):
        open_recording(cut(path, 0.1), FRAMES)


def test_a_file_that_is_cut_while_it_is_used_is_refused(tmp_path):
    recording = open_recording(interleaved(tmp_path / "a.h5"), FRAMES)
    recording.frames(0, 2)
    cut(recording.path, 0.7)
    with pytest.raises(UserError, match=r"a.h5: must hold 3000 events, as when it was opened, got"):
        recording.frames(2, 4)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_file_of_which_a_column_is_gone_is_refused(tmp_path, share):
    path = cut(write_raw(tmp_path, "a", random_events(20_000)), share)
    with pytest.raises(UserError, match=r"a_td.h5: (was cut short|cannot be read as HDF5)"):
        whole(path)


def notes(path, **settings):
    recording = open_recording(path, FrameSettings(**settings))
    return recording.sensor_size, [(each.message, each.doubtful) for each in recording.notes]


def test_an_assumed_sensor_is_said_and_doubted_where_events_contradict(tmp_path):
    def path(name, size, stated=None):
        return write_raw(tmp_path, name, random_events(5000, size=size), size=stated)

    size, found = notes(path("full", (720, 1280)))
    assert size == (720, 1280)
    assert found == [
        (
            "its file does not state the sensor's size, 1280x720 px is assumed: set "
            "data.sensor_size if it is another",
            False,
        )
    ]
    _, ((corner, doubtful),) = notes(path("davis", (260, 346)))
    assert doubtful
    assert "1280x720 px is assumed, but its events reach 34" in corner
    assert corner.endswith(" only: set data.sensor_size")
    _, ((vga, doubtful),) = notes(path("vga", (480, 640)))
    assert doubtful
    assert "but its events reach 63" in vga
    assert notes(path("davis", (260, 346)), sensor_size=(260, 346))[0] == (260, 346)
    size, ((beyond, doubtful),) = notes(path("roi", (480, 640), (128, 128)), sensor_size=None)
    assert size == (128, 128)
    assert doubtful
    assert "its file states a sensor of 128x128 px, but its events reach 63" in beyond
    assert beyond.endswith("those outside are dropped: set data.sensor_size")
    size, ((used, doubtful),) = notes(path("roi", (480, 640), (128, 128)), sensor_size=(480, 640))
    assert size == (480, 640)
    assert doubtful
    assert used.endswith("data.sensor_size, 640x480, is used")
    strays = random_events(5000)
    strays["y"][::600] = 33014
    assert notes(write_raw(tmp_path, "strays", strays)) == (SIZE, [])


def test_facts_are_cached_until_the_file_changes(tmp_path, monkeypatch):
    path = write_raw(tmp_path, "a", EVENTS)
    first = event_facts(path)
    assert first.num_events == 3000
    with monkeypatch.context() as patch:
        patch.setattr("etram_det.data.event_facts._read_facts", None)  # would fail if called
        assert event_facts(path) == first
    write_raw(tmp_path, "a", random_events(2000))
    assert event_facts(path).num_events == 2000
    (tmp_path / "cache").chmod(0o500)
    assert event_facts(write_raw(tmp_path, "b", EVENTS)) == first
