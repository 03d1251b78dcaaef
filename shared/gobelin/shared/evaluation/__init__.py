"""What a model is worth: probes on labelled data, and the report that shows it."""

from gobelin.shared.evaluation.embed import Embedding, embed
from gobelin.shared.evaluation.evaluate import Evaluation, evaluate_model, evaluate_raw
from gobelin.shared.evaluation.results import MemberWorth, Results, Row, print_results

__all__ = [
    "Embedding",
    "Evaluation",
    "MemberWorth",
    "Results",
    "Row",
    "embed",
    "evaluate_model",
    "evaluate_raw",
    "print_results",
]
