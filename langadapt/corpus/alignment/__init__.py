"""Re-alignment: which lines of parallel files belong together, and which parts of long documents."""

from langadapt.corpus.alignment.features import FeatureParts, Features, extract
from langadapt.corpus.alignment.files import Alignment, align

__all__ = ["Alignment", "FeatureParts", "Features", "align", "extract"]
