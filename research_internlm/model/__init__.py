"""The network: shapes, LoRA, configuration, modelling, tokenizer, and what a CPU needs."""
