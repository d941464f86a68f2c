"""Stages 2 and 3: continual pretraining and supervised fine-tuning."""
