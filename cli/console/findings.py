"""What checks found, as people read it. Knows findings' levels; nothing of what is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalekv.infinity_patch.planning.health import Finding


def show_finding(finding: Finding) -> None:
    """Writes a finding to stdout: its level, name, what was found, and the fix."""
    from rich.text import Text

    from scalekv.cli.console.stdout import show
    from scalekv.infinity_patch.planning.health import Level

    colour = {Level.FINE: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}
    line = Text(f"{finding.level.value:8}", style=colour[finding.level])
    line.append(f"{finding.name}: ", style="bold").append(finding.found, style="not bold")
    lines = [line]
    if finding.fix:
        lines.append(Text("        fix: ").append(finding.fix, style="green"))
    show(*lines)
