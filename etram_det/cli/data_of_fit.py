"""The data that ``fit`` would train on, by the same flags and files."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from etram_det.cli.lightning import EtramCLI, lightning_cli
from etram_det.data.datamodule import EventDataModule


def data_of_fit(args: Sequence[str]) -> tuple[EventDataModule, tuple[str, ...]]:
    """The data that ``fit`` would train on, without its network and trainer.

    Args:
        args: what follows ``python -m etram_det fit``.

    Returns:
        The data, and the splits that ``fit`` needs of it.

    Raises:
        UserError: a setting or file does not fit; the message names it.
    """
    cli = lightning_cli(["fit", *args], kind=_DataOfFit)
    validates = cli.config.fit.trainer.limit_val_batches != 0
    return cli.datamodule, ("train", "val") if validates else ("train",)


class _DataOfFit(EtramCLI):
    """Reads all settings and makes nothing but the data."""

    def before_instantiate_classes(self) -> None:
        """Look for nothing: no logger is made."""

    def instantiate_classes(self) -> None:
        """Make the data, by a parser of its own: that of ``fit`` makes all or nothing."""
        parser = ArgumentParser()
        parser.add_class_arguments(EventDataModule, "data")
        settings = parser.parse_object({"data": self.config.fit.data.as_dict()})
        self.datamodule = parser.instantiate_classes(settings).data

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""
