"""Training data of a personal assistant: wording, mixture, held-out questions."""
