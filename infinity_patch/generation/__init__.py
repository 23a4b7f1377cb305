"""From a settled request to pictures: the patch, the pipeline, batches, what is recorded."""
