"""Questions with one right answer: reading published sets, asking a model, and counting what it gets right."""

from langadapt.evaluation.choices.measuring import accuracy_by_subject, measure_choices, read_choice_set

__all__ = ["accuracy_by_subject", "measure_choices", "read_choice_set"]
