"""The frame of static pictures: SVG that follows the light or dark scheme of its reader."""

from __future__ import annotations

from collections.abc import Sequence

STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #565d59; }
.name { fill: #1c1f1d; } .group { fill: #1c1f1d; font-weight: 600; }
.grid { stroke: #e3e2db; } .mark { stroke: #8a918c; stroke-dasharray: 4 3; }
.bar { stroke: #0b7a66; stroke-opacity: 0.35; stroke-width: 7; stroke-linecap: round; }
.dot { fill: #0b7a66; } .line { stroke: #0b7a66; fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #a9b0aa; } .name, .group { fill: #e9ebe6; } .grid { stroke: #363c38; }
  .bar { stroke: #4fd1b4; } .dot { fill: #4fd1b4; } .line { stroke: #4fd1b4; }
}
</style>"""
WIDTH = 760


def framed(height: float, parts: Sequence[str]) -> str:
    """Return a picture of some height with what is drawn in it."""
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', STYLE, *parts, "</svg>", ""]
    )
