"""HTML pages for people: self-contained, readable on a phone and on paper."""

from __future__ import annotations

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

WIDTH = 4.8
"""Of figures, in inches: on a phone, where a page has about 3.5, their words are still large enough to be read."""


def render(template: str, **values: Any) -> str:
    """A page from a template of jobs/templates."""
    environment = Environment(loader=PackageLoader("jobs"), autoescape=select_autoescape(default=True))
    return environment.get_template(template).render(**values)


def png(figure: Figure) -> str:
    """A figure as base64, for the source of an <img>. The same figure gives the same text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
