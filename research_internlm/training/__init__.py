"""The worker: command line, checks, callbacks and what MindFormers must know."""
