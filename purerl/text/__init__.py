"""Text: tokens, data, metrics, objectives, models and generation."""
