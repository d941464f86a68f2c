"""Questions with one right answer: reading published sets, asking a model, and counting what it gets right."""

from langadapt.evaluation.choices.measuring import accuracy_by_subject, measure_choices
from langadapt.evaluation.choices.reading import read_questions

__all__ = ["accuracy_by_subject", "measure_choices", "read_questions"]
