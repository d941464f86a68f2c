"""Ground: typed settings. YAML and key=value overrides in, checked objects out."""

from langadapt.recipe.language import Language, load_language
from langadapt.recipe.settings import Settings, load_settings

__all__ = ["Language", "Settings", "load_language", "load_settings"]
