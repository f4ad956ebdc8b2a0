"""InternLM on MindFormers: the model, its prompts and records, training, evaluation, hand-in."""
