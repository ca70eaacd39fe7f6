"""Honest evaluation: walk-forward dates, baselines on the same rows, error bars over dates, calibration, one
report.
"""
