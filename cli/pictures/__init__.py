"""Pictures as files: the output folder, contact sheets, embedded settings."""
