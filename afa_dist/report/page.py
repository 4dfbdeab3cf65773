"""One self-contained page: no request leaves it, and it works offline."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from afa_dist.errors import UserError
from afa_dist.files import write_text
from afa_dist.report.blocks import Section
from afa_dist.report.pictures import SPRITE_COLUMNS

_FILES = resources.files("afa_dist.report") / "page"


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Render `sections` to `path`; empty ones are left out.

    Raises:
        UserError: the packages for it are missing.
    """
    jinja2, plotly_js = _packages()
    shown = [section for section in sections if not section.empty]
    charts = [
        {**dataclasses.asdict(figure)["data"], "sheets": figure.sheets, "tile": figure.tile}
        for section in shown
        for figure in section.figures
    ]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((_FILES / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        title=title,
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=shown,
        style=jinja2.utils.markupsafe.Markup((_FILES / "page.css").read_text(encoding="utf-8")),
        script=jinja2.utils.markupsafe.Markup((_FILES / "page.js").read_text(encoding="utf-8")),
        plotly=jinja2.utils.markupsafe.Markup(plotly_js),
        data=jinja2.utils.markupsafe.Markup(_in_script({"charts": charts, "columns": SPRITE_COLUMNS})),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _in_script(value: Any) -> str:
    """JSON that can stand in a script element whatever texts it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _packages() -> tuple[Any, str]:
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError.one("report", "needs plotly and jinja2: pip install 'afa-dist[plots]'") from error
    return jinja2, get_plotlyjs()
