"""An object store: its interface, OBS, multipart uploads and their state."""
