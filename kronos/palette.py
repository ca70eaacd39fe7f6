"""The colours of every picture and report, in one place, so that they mean the same everywhere. Loads
nothing.
"""

INK, BLUE, RED, GREY = "#22303c", "#2b6c9b", "#b0413e", "#c9d1d8"
"""Text and lines; rises and what is the model's; falls and what failed; frames."""
OTHERS = ("#7a9e3d", "#b8862d", "#6d5a96", "#3d8a8a")
"""Further lines of one plot."""
