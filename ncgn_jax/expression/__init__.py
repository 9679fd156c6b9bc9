"""Gene expression over space and time: data, model, task, measures and pictures."""
