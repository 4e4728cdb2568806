"""The page of the site that shows the verdicts: `docs/reference/models.md`. Only `make sweep` writes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from sweep.verdict import Verdict

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/models.md"

HEAD = """\
# Models

Every type of model that transformers {transformers} knows, and what becomes of it here. `make sweep` wrote this page on {date}
(torch {torch}, {device}). Do not edit it.

Each type is built as a tiny random model, in float64 where it takes that, with every kind of layer that it has and sliding
windows of 8 tokens. It decodes greedily with a noisy copy of itself as draft: by the strategies autoregressive, speculative (3)
and PEARL (3), prompts of 5, 12 and 19 tokens, alone and in a batch.

- **equal**: every token is that of `model.generate(do_sample=False)`;
- **refused**: one line says why, before any token;
- **not built**: the tiny model could not be made, so that nothing is said about the type;
- **WRONG**, **CRASH**: what must not be. `make sweep` fails if there is any.

{counts}
"""


def page(causal: Sequence[Verdict], image_text: Sequence[Verdict], device: str) -> str:
    """The text of the page. `device` is what the models ran on."""
    outcomes = sorted({verdict.outcome for verdict in (*causal, *image_text)}, key=order)
    counts = ["| | " + " | ".join(outcomes) + " |", "|---|" + "---|" * len(outcomes)]
    for name, verdicts in (
        (f"causal language models ({len(causal)})", causal),
        (f"image and text ({len(image_text)})", image_text),
    ):
        found = Counter(verdict.outcome for verdict in verdicts)
        counts.append(f"| {name} | " + " | ".join(str(found[outcome]) for outcome in outcomes) + " |")
    versions = {"transformers": version("transformers"), "torch": version("torch"), "date": date.today().isoformat()}
    head = HEAD.format(**versions, device=device, counts="\n".join(counts))
    return "\n".join(
        (
            head,
            "## Causal language models\n",
            *table(causal),
            "",
            "## Image and text, given text only\n",
            *table(image_text),
            "",
        )
    )


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Types that are equal, by name; a line for each one of which more is to be said. What must not be comes first."""
    plain = [it for it in verdicts if it.outcome == "equal" and not it.why and not it.notes]
    names = ", ".join(f"`{name}`" for name in sorted(it.model_type for it in plain))
    lines = [f"**Equal:** {names or 'none'}.", ""]
    lines += ["| others | | |", "|---|---|---|"]
    for verdict in sorted((it for it in verdicts if it not in plain), key=lambda it: (it.good, it.model_type)):
        told = "; ".join((*filter(None, [verdict.why]), *verdict.notes))
        lines.append(f"| `{verdict.model_type}` | {verdict.outcome} | {escaped(told)} |")
    return lines


def order(outcome: str) -> int:
    """Where an outcome stands in a table."""
    return ("equal", "refused", "not built", "WRONG", "CRASH").index(outcome)


def escaped(text: str) -> str:
    """Text that is safe in a cell of a table."""
    for character in "\\|<>*_[]`{}":
        text = text.replace(character, f"\\{character}")
    return text
