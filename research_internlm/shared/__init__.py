"""No domain: errors, files, processes, versions, the layout of a run folder, the secrets scan."""
