"""Training: a network and its loss as one module, one loop for both stages, checkpoints, and the stages
themselves.
"""
