"""How the settings of a run follow the checkpoint that it continues or evaluates."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

from etram_det.checkpoint.contents import require_same_data
from etram_det.checkpoint.file import Checkpoint, read_checkpoint
from etram_det.cli.resume import chosen_checkpoint, folder_of_runs, named_checkpoint
from etram_det.cli.trained_settings import as_yaml, described, trained_settings
from etram_det.data.labels import class_names_of
from etram_det.data.representation import channels_of
from etram_det.errors import UserError
from etram_det.inference.exported_file import SUFFIX, ExportedDetector, read_exported
from etram_det.training.exported_network import settings_of
from etram_det.training.module_settings import ARCHITECTURE, NETWORK

_log = logging.getLogger(__name__)


class CheckpointRules:
    """Part of LightningCLI that reads ``ckpt_path`` before anything is made.

    Attributes:
        config: settings of all commands.
        parser: what has read them.
        ckpt_path: the checkpoint that was chosen; None for none.
    """

    config: Any
    parser: Any
    ckpt_path: str | None
    _parser: Callable[[str | None], Any]
    _args: Sequence[str]
    _exported: ExportedDetector | None = None
    _checkpoint: Checkpoint | None = None

    def _parse_ckpt_path(self) -> None:
        """Let the network follow the checkpoint, and in an evaluation all that it was trained on.

        Lightning would let every stored setting override the command line.
        """
        if not self.config.get("subcommand"):
            return
        command = self.config.subcommand
        evaluates = command != "fit"
        config = self.config[command]
        runs, _ = self._folder_of_runs(config)
        any_name = evaluates and not self._is_given("trainer.logger.init_args.name")
        self.ckpt_path = chosen_checkpoint(command, self._plain(config), runs, any_name)
        if evaluates and not self.ckpt_path:
            raise UserError(
                f"ckpt_path: must be set for {command}, got nothing: use --ckpt_path FILE, or last "
                "or best for that of the newest run"
            )
        if (start := config.model.init_from) and not evaluates:
            if self.ckpt_path:
                message = (
                    "model.init_from: %s is not read, as training goes on from the weights of "
                    "ckpt_path %s"
                )
                _log.info(message, start, self.ckpt_path)
            else:
                config.model.init_from = named_checkpoint(start, "model.init_from", runs.parent)
                # Before traffic is simulated for a training that cannot start.
                read_checkpoint(config.model.init_from, "model.init_from")
        self._checkpoint = self._read(self.ckpt_path, command) if self.ckpt_path else None
        if evaluates and self._checkpoint is not None:
            self._follow(self._checkpoint, command)
            config = self.config[command]
        stored = {} if self._checkpoint is None else self._checkpoint.settings
        channels = channels_of(config.data.bins, config.data.representation)
        require_same_data(stored, class_names_of(config.data.class_names), channels)
        if self._exported is not None:
            height, width = config.data.input_size
            self._exported.require_size((height, width), "data.input_size")
        for name in ARCHITECTURE:
            known = stored.get(name)
            if name == "stem_norm_eps" and stored:  # which older and imported ones do not hold
                known = stored.get(name, NETWORK[name])
            theirs, ours = map(_as_list, (known, config.model[name]))
            if theirs is None:
                continue
            if theirs != ours and self._is_given(f"model.{name}"):
                message = "model.%s follows the checkpoint: %s (the configuration has %s)"
                _log.info(message, name, theirs, ours)
            config.model[name] = theirs

    def _read(self, path: str, command: str) -> Checkpoint:
        """The checkpoint, or what an exported detector says of itself in the place of one."""
        if Path(path).suffix != SUFFIX:
            if (runtime := self.config[command].get("runtime", "auto")) != "auto":
                raise UserError(
                    f"runtime: must be auto for a checkpoint, got {runtime}: use an exported file "
                    "(python -m etram_det export)"
                )
            return read_checkpoint(path)
        if command == "fit":
            raise UserError(
                f"ckpt_path: must be a checkpoint (.ckpt) to go on from, got {path}: use the one "
                "that it was exported from"
            )
        self._exported = read_exported(path)
        return settings_of(self._exported)

    def _follow(self, checkpoint: Checkpoint, command: str) -> None:
        """Parse again with the checkpoint's settings over the baseline, under all that is given.

        Raises:
            UserError: if a setting of the checkpoint is not possible.
        """
        own: Any = self._parser(command)
        before = self._plain(self.config[command])
        root = (before["data"]["root"],) if self._is_given("data.root") else ()
        theirs = trained_settings(checkpoint, own.settings(), *root)
        words = [*self._args[:3], "--config", as_yaml(theirs), *self._args[3:]]  # after baseline
        given = dict(own.files), dict(own.run_logger)
        try:
            self.config = self.parser.parse_args(words)
        except (ArgumentError, UserError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.ckpt_path}: must hold settings that are possible, got {reason}: the "
                "checkpoint is damaged, or of another version: use another one"
            ) from error
        own.files, own.run_logger = given
        for line in described(theirs, before, self._plain(self.config[command])):
            _log.info(line)

    def _is_given(self, name: str) -> bool:
        """Whether the user has set a setting, in a file or by a flag."""
        own: Any = self._parser(self.config.subcommand)
        flags = (f"--{name}", f"--{name.partition('.')[0]}")
        return name in own.files or any(arg.partition("=")[0] in flags for arg in self._args)

    def _plain(self, config: Namespace) -> dict[str, Any]:
        parser = self._parser(self.config.get("subcommand"))
        # What is parsed is valid: to check it again would take a third of a start's time.
        text = parser.dump(config, skip_unset=False, skip_validation=True, format="json")
        return json.loads(text)

    def _folder_of_runs(self, config: Namespace) -> tuple[Path, Path | None]:
        own: Any = self._parser(self.config.get("subcommand"))
        return folder_of_runs(self._plain(config), own.run_logger)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
