"""From price files to batches of windows. `store`, `windows`, `sampling`, `splits` and `calendar` need NumPy
only.
"""
