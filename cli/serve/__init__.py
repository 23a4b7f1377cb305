"""The command `scalekv serve`: a warm model behind the images API that OpenAI's clients speak."""
