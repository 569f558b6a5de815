"""RSLLM [paper, arXiv 2412.16933]: a sequential recommender's item vectors among the words of a language model."""

METHOD = "rsllm"
"""As precog.json names it beside a model's weights."""
