"""Running a trained model: generation of tokens and of text."""

from sparsemix.inference.generate import generate
from sparsemix.inference.sampling import sample, token_probs
from sparsemix.inference.text import TextTokenizer, generate_text

__all__ = ["TextTokenizer", "generate", "generate_text", "sample", "token_probs"]
