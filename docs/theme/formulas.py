"""Formulas as MathML: browsers set it themselves, so a page needs no script and no font for it. A hook of mkdocs.

A page writes TeX between `\\(` and `\\)`, or between `\\[` and `\\]` on lines of their own.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', flags=re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', flags=re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Called for each page after it is rendered."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return BLOCK.sub(lambda found: f'<div class="formula">{convert(html.unescape(found[1]), display="block")}</div>', content)
