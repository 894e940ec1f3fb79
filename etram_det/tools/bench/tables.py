"""What ``bench`` prints: the machine in words, and tables of measurements."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from etram_det.report.tables import number_of
from etram_det.tools.bench.measure import Section

FILE_WIDTH = 140  # columns where the report goes to a file, which has no width of its own


def header_lines(header: dict[str, Any]) -> str:
    """The machine in words, as ``measure.machine`` describes it."""
    packages = ", ".join(f"{name} {found}" for name, found in header["packages"].items())
    accelerator = f", {header['accelerator']}, CUDA {header['cuda']}" if header["cuda"] else ""
    threads = number_of(header["threads"], "thread")
    lines = [
        f"{header['date']}  {header['command']}",
        f"{header['processor']}, {header['cores']} cores, {threads}{accelerator}",
        f"{header['system']}, Python {header['python']}, {packages}",
    ]
    if header["busy"]:
        lines.append(
            f"other processes load this machine ({header['load_before']:.1f} cores): ratios hold, "
            "durations are too long"
        )
    return "\n".join(lines)


def table(section: Section) -> Table:
    """A section for the screen."""
    rows = Table(title=section.title, title_justify="left")
    rows.add_column("what", no_wrap=True)
    for name in ("median", "quartiles", "95 %"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("remark")
    for found in section.measurements:
        spread = p95 = ""
        if found.low is not None and found.high is not None and found.p95 is not None:
            spread, p95 = f"{_digits(found.low)} to {_digits(found.high)}", _digits(found.p95)
        rows.add_row(found.name, f"{_digits(found.value)} {found.unit}", spread, p95, found.note)
    for name, reason in section.failures.items():
        rows.add_row(name, "-", "", "", reason)
    return rows


def _digits(value: float) -> str:
    """At least three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
