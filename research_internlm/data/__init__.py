"""What a training row is: families, special tokens, chat template, questions, items, rows."""
