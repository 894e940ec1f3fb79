"""``python -m etram_det import-rvt``: a checkpoint of RVT's becomes one of this project's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from etram_det.checkpoint.file import read_checkpoint, write_checkpoint
from etram_det.checkpoint.rvt import (
    DIM_HEAD_OF,
    IGNORED_GLOBALS,
    architecture_of,
    checkpoint_from_rvt,
    rename_rvt,
    require_rvt,
)
from etram_det.data.labels import CLASS_NAMES_OF
from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.report.tables import settings_table

# What the number of classes says about the data set; three may be 1 Mpx or eTraM.
_DATA_SET_OF = {2: "gen1", 8: "etram"}


def import_rvt_command(
    checkpoint: Path,
    output: Path,
    class_names: Sequence[str] | Literal["etram", "etram3", "gen1", "1mpx", "dsec"] | None = None,
    dim_head: int | None = None,
    partition_split: Literal[1, 2, 4] | None = None,
) -> None:
    """Turn a checkpoint of RVT or its eTraM fork into one of this project's.

    All sizes that show in the tensors' shapes are read off them, and every tensor is used. The
    file is read without running code that it may hold.

    Args:
        checkpoint: RVT's checkpoint (.ckpt): tiny, small, base or any other sizes; three scales
            or the fork's four.
        output: the file to write; it must not be there yet.
        class_names: name of each class, in the order of the ids; or ``etram`` (8 classes),
            ``etram3``, ``gen1``, ``1mpx``, ``dsec`` for the names of that data set. Unset: ``gen1``
            for 2 classes, ``etram`` for 8; required for any other number.
        dim_head: channels of an attention head (RVT's ``dim_head``), which no tensor shows.
            Unset: that of RVT tiny, small or base; required for any other ``embed_dim``.
        partition_split: attention windows along each side of the last stage (RVT's
            ``partition_split_32``), which no tensor shows. Unset: RVT's, 1 for Gen1's classes and
            2 for all others.

    Raises:
        UserError: if the file is no such checkpoint, a setting is missing or does not fit, or
            ``output`` is there already. Nothing is written then.
    """
    if output.exists():
        raise UserError(f"output: {output} is there already: remove it or choose another name")
    state_dict = read_checkpoint(checkpoint, "checkpoint", IGNORED_GLOBALS).tensors
    source = str(checkpoint)
    require_rvt(state_dict, source)
    architecture = architecture_of(rename_rvt(state_dict), source)
    names = _class_names(class_names, architecture["num_classes"])
    architecture["dim_head"] = _dim_head(dim_head, architecture["embed_dim"])
    if partition_split is None:
        partition_split = 1 if names == CLASS_NAMES_OF["gen1"] else 2
    architecture["partition_split"] = partition_split
    imported = checkpoint_from_rvt(state_dict, architecture, names, source)
    write_checkpoint(output, imported.content)
    console = screen()
    console.print(settings_table({**architecture, "class_names": ", ".join(names)}))
    num_values = sum(tensor.numel() for tensor in state_dict.values())
    console.out(
        f"{len(state_dict)} tensors ({num_values:,} numbers), all of them used, written to {output}"
    )


def _class_names(given: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    if given is None:
        if num_classes not in _DATA_SET_OF:
            kinds = "1mpx or etram3, or names" if num_classes == 3 else "names"
            raise UserError(
                f"class_names: must be given for a checkpoint of {num_classes} classes, got none: "
                f"set --class-names to {kinds} in the order of the class ids"
            )
        given = _DATA_SET_OF[num_classes]
    names = CLASS_NAMES_OF[given] if isinstance(given, str) else tuple(given)
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise UserError(
            f"class_names: must be {num_classes} different names, one for each class of the "
            f"checkpoint, got {len(names)} ({', '.join(names)}): set others"
        )
    return names


def _dim_head(given: int | None, embed_dim: int) -> int:
    if given is None and embed_dim not in DIM_HEAD_OF:
        raise UserError(
            f"dim_head: must be given for embed_dim {embed_dim}, got none: set "
            "--dim-head to model.backbone.stage.attention.dim_head of RVT's configuration"
        )
    dim_head = DIM_HEAD_OF[embed_dim] if given is None else given
    if dim_head < 1:
        raise UserError(f"dim_head: must be at least 1, got {dim_head}: raise it")
    return dim_head
