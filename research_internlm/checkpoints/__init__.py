"""Files of weights: formats, names, Hugging Face import and export, adapters, merging."""
