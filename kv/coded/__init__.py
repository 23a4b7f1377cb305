"""A history coded like pictures: every token kept, in few bits. Importing the package itself does
not import torch."""
