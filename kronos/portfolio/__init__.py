"""What forecasts would have earned: signals, exchange rules, strategies, figures with error bars that are
true.
"""
