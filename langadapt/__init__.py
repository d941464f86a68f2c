"""Teach a large language model a language it does not speak well: the library behind the six numbered scripts."""

__version__ = "0.1.0"
