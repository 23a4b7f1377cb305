"""Tests of what an evaluation is made of."""
