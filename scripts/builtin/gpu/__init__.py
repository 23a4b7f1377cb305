"""The stages of `scripts.builtin.train_gpu`: one quarter of an hour of a GPU, resumable."""
