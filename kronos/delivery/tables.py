"""Tables for people, as Markdown.

In: rows. Out: text. By hand, since polars cuts wide tables or, told not to, panics (2.1.0).
"""

from collections.abc import Sequence


def table(rows: Sequence[dict[str, str]], columns: Sequence[str] = ()) -> str:
    """Rows as a Markdown table. columns: which, in which order; empty: those of the rows, which are the same
    in all.
    """
    names = list(columns or rows[0])
    cells = [names, *([row[name].replace("|", "/") for name in names] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
