"""From tokens to a decision: sampling, generation, paths in prices, probabilities. Import the modules by
name.
"""
