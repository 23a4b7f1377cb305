"""What is drawn, as it is typed: prompts from arguments and files, wildcards, seeds."""
