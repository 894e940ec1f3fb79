"""The parser of Lightning's commands: files of settings, flags, help."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from etram_det.cli.flags import read_settings
from etram_det.cli.help import PlainHelpFormatter, shorten
from etram_det.cli.messages import with_nearest_setting
from etram_det.errors import UserError


class SettingsParser(ArgumentParser):
    """A parser that knows in which file a setting stands, and shows the short help.

    Attributes:
        command: the one of Lightning's commands that it reads the settings of, if any.
        files: for each setting that stands in a file of the user, by its dotted name, the last
            such file.
        run_logger: ``save_dir`` and ``name`` of the logger that was set last, in a file.
    """

    is_short = True  # whether its help leaves out Lightning's rarely used settings

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**({"formatter_class": PlainHelpFormatter} | kwargs))
        self.command = ""
        self.files: dict[str, str] = {}
        self.run_logger: dict[str, str] = {}
        self._has_baseline = False  # which is read before the user's files

    def settings(self) -> list[str]:
        """Dotted names of all settings."""
        return list(self.get_defaults().keys())

    def parse_string(self, content: str, path: str = "", *args: Any, **kwargs: Any) -> Namespace:
        """Settings of a file."""
        groups = {name.split(".")[0] for name in self.settings() if "." in name}
        content = read_settings(content, path or "--config", groups)
        try:
            config = super().parse_string(content, path, *args, **kwargs)
        except ArgumentError as error:
            mistake = with_nearest_setting(str(error), self.settings())
            raise UserError(f"{path or '--config'}: {mistake}") from error
        of_logger = "trainer.logger.init_args."
        for name, value in config.items():
            if value and name in (f"{of_logger}save_dir", f"{of_logger}name"):
                self.run_logger[name.removeprefix(of_logger)] = value
        if self._has_baseline:
            self.files |= dict.fromkeys(config.keys(), path)
        self._has_baseline = True
        return config

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Examples, own settings, and Lightning's in short; or all settings."""
        if self.command and self.is_short:
            self.is_short = False
            shorten(self, self.command)
        return super().format_help(*args, **kwargs)
