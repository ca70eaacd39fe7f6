"""A service for forecasts: one process that answers over HTTP, shows a page, and runs jobs (docs/serving.md)."""
