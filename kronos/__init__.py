"""Train Kronos on competition prices and forecast with it. See docs/architecture.md for the rooms of the house."""
