"""One network, many answers: loading, batching, the key-value cache and the engine."""
