"""Used by all rooms: errors, files, processes, versions, the layout of a run folder, the secrets scan."""
