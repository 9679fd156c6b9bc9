"""Point clouds: files and sets, model, task, measures and pictures."""
