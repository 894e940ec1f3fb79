"""Checkpoints with code in them, or with contents that no training has written."""

import pickle

import torch

from damage.cases import Payload, cases, fit, import_rvt, validate


def _change_checkpoint(path, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


@cases(
    import_rvt=("rvt.ckpt", import_rvt),
    validate=("run.ckpt", validate),
    resume=("run.ckpt", lambda f: fit(f, "--ckpt_path", str(f / "run.ckpt"))),
    init_from=("run.ckpt", lambda f: fit(f, "--model.init_from", str(f / "run.ckpt"))),
)
def code_in_checkpoint(folder, kind):
    name, command = kind
    torch.save({"state_dict": {"a": Payload()}, "hyper_parameters": {}}, folder / name)
    return command(folder)


@cases(import_rvt=("rvt.ckpt", import_rvt), validate=("run.ckpt", validate))
def checkpoint_is_a_bare_pickle(folder, kind):
    name, command = kind
    (folder / name).write_bytes(pickle.dumps(Payload()))
    return command(folder)


@cases(import_rvt=("rvt.ckpt", import_rvt), validate=("run.ckpt", validate))
def code_in_the_old_format(folder, kind):
    name, command = kind
    torch.save([Payload()], folder / name, _use_new_zipfile_serialization=False)
    return command(folder)


@cases(
    plain=[1, 2],
    a_tensor=torch.zeros(3),
    nothing={},
    none=None,
    text="weights",
    no_weights={"state_dict": {}},
    not_named={"state_dict": {3: torch.zeros(1)}},
    no_tensors={"state_dict": {"a": "b"}},
    a_list={"state_dict": [torch.zeros(2)]},
)
def checkpoint_is(folder, content):
    torch.save(content, folder / "run.ckpt")
    return validate(folder)


def _first(change):
    def changed(checkpoint):
        name = next(iter(checkpoint["state_dict"]))
        checkpoint["state_dict"][name] = change(checkpoint["state_dict"][name])

    return changed


@cases(
    wrong_shape=_first(lambda x: x[:1]),
    whole_numbers=_first(lambda x: x.long()),
    complex=_first(lambda x: x.to(torch.complex64)),
    sparse=_first(lambda x: x.to_sparse()),
    nan=_first(lambda x: x * float("nan")),
    meta=_first(lambda x: x.to("meta")),
    expanded=_first(lambda x: torch.zeros(()).expand(2**40)),
    half=_first(lambda x: x.half()),
    quantized=_first(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)),
    lacks_one=lambda c: c["state_dict"].popitem(),
    one_too_many=lambda c: c["state_dict"].update({"detector.more": torch.zeros(1)}),
)
def weights_of(folder, change):
    _change_checkpoint(folder / "run.ckpt", change)
    return validate(folder)


@cases(
    wrong_shape=_first(lambda x: x[:1]),
    nan=_first(lambda x: x * float("nan")),
    sparse=_first(lambda x: x.to_sparse()),
    meta=_first(lambda x: x.to("meta")),
    complex=_first(lambda x: x.to(torch.complex64)),
    expanded=_first(lambda x: torch.zeros(()).expand(2**40)),
    lacks_one=lambda c: c["state_dict"].popitem(),
    one_too_many=lambda c: c["state_dict"].update({"mdl.more": torch.zeros(1)}),
)
def rvt_weights_of(folder, change):
    _change_checkpoint(folder / "rvt.ckpt", change)
    return import_rvt(folder)


HYPER_PARAMETERS = {
    "a list": [1],
    "a number": 5,
    "none": None,
    "class names a number": {"class_names": 5},
    "class names of numbers": {"class_names": [1, 2]},
    "class names none": {"class_names": None},
    "embed_dim text": {"embed_dim": "many"},
    "embed_dim huge": {"embed_dim": 2**40},
    "embed_dim negative": {"embed_dim": -8},
    "embed_dim a tensor": {"embed_dim": torch.zeros(3)},
    "dim_head nan": {"dim_head": float("nan")},
    "dim_head zero": {"dim_head": 0},
    "fpn_stages text": {"fpn_stages": "all"},
    "num_blocks nested": {"num_blocks": [[1], 1, 1, 1]},
    "num_blocks huge": {"num_blocks": [10**9, 1, 1, 1]},
}


@cases(
    **{
        f"{n} {c.__name__}": (v, c)
        for n, v in HYPER_PARAMETERS.items()
        for c in (validate, import_rvt)
        if c is validate
    }
)
def hyper_parameters(folder, change):
    value, command = change

    def swap(checkpoint):
        stored = checkpoint["hyper_parameters"]
        checkpoint["hyper_parameters"] = {**stored, **value} if isinstance(value, dict) else value

    _change_checkpoint(folder / "run.ckpt", swap)
    return command(folder)


@cases(a_list=[1], embed_dim={"class_names": ["a"] * 8, "dim_head": "x"}, names={"class_names": 5})
def init_from_settings(folder, value):
    _change_checkpoint(folder / "run.ckpt", lambda c: c.update(hyper_parameters=value))
    return fit(folder, "--model.init_from", str(folder / "run.ckpt"))


@cases(
    loops_list=("loops", []),
    loops_text=("loops", {"fit_loop": "x"}),
    loops_none=("loops", None),
    optimizer_text=("optimizer_states", "x"),
    optimizer_empty=("optimizer_states", [{}]),
    optimizer_number=("optimizer_states", 5),
    optimizer_more=("optimizer_states", [{"state": {0: {"step": 1}}, "param_groups": []}]),
    schedule=("lr_schedulers", [{"last_epoch": "x"}]),
    schedule_number=("lr_schedulers", 3),
    callbacks=("callbacks", 5),
    epoch=("epoch", "one"),
    step=("global_step", None),
    bad_steps=("callbacks", {"BadSteps": {"num_skipped": "x"}}),
    checkpoint_callback=("callbacks", {"RunCheckpoint{}": 3}),
    version=("pytorch-lightning_version", 5),
    version_text=("pytorch-lightning_version", "?"),
)
def resume_with(folder, change):
    _change_checkpoint(folder / "run.ckpt", lambda c: c.update({change[0]: change[1]}))
    return fit(folder, "--trainer.max_steps", "2", "--ckpt_path", str(folder / "run.ckpt"))


def _of_another_shape(checkpoint):
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(3)


def _lanes(change):
    def changed(checkpoint):
        own = checkpoint["resume"]["processes"][0]
        own["lanes"] = [change(*pair) for pair in own["lanes"]]

    return changed


def _text_for_a_count(checkpoint):
    checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] = "x"


@cases(
    moments=_of_another_shape,
    too_few_lanes=_lanes(lambda hidden, cell: (hidden[:1], cell[:1])),
    lanes_of_other_frames=_lanes(lambda hidden, cell: (hidden[..., :1], cell[..., :1])),
    hidden_without_cell=_lanes(lambda hidden, cell: (hidden,)),
    count=_text_for_a_count,
    unread_chunks=lambda c: c["callbacks"].update(BadRecordings={"a": "b"}),
    place=lambda c: c["EventDataModule"].update(step=-3),
    epoch_of_place=lambda c: c["EventDataModule"].update(epoch=-1),
    validation=lambda c: c["EventDataModule"].update(validation=3),
    unfinished_step=lambda c: c["resume"]["processes"][0].update(unfinished_step={"losses": 1}),
)
def resume_with_damaged(folder, change):
    _change_checkpoint(folder / "run.ckpt", change)
    return fit(folder, "--trainer.max_steps", "2", "--ckpt_path", str(folder / "run.ckpt"))


@cases(
    step_missing=lambda c: c.pop("global_step"),
    step_text=lambda c: c.update(global_step="x"),
    step_negative=lambda c: c.update(global_step=-1),
)
def resume_with_auto(folder, change):
    def changed(checkpoint):
        checkpoint["provenance"]["config"]["data"]["root"] = str(folder / "raw")
        change(checkpoint)

    last = folder / "runs" / "size_aware" / "version_0" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    (folder / "run.ckpt").rename(last)
    _change_checkpoint(last, changed)
    return fit(folder, "--trainer.max_steps", "2", "--resume", "auto")
