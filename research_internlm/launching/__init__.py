"""From a command to workers: options, checks, msrun and the output folder."""
