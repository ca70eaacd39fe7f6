"""Before a run: what it will need and how long it takes, by computation and by a few real steps. See
docs/training.md.
"""
