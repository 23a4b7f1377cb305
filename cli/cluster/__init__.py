"""A batch that several processes draw, on one machine or many, with Ray."""
