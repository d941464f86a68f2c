"""A comparison in words and numbers: tables, their files, the summary, the model card."""
