"""Ground: reports as one HTML file - page, sortable tables, charts and fonts inside, links between the stages'."""

from langadapt.pages.fonts import font_css
from langadapt.pages.page import charts_html, fill, link_back, link_html, make_page
from langadapt.pages.tables import Cell, Table, list_html, table_html

__all__ = [
    "Cell",
    "Table",
    "charts_html",
    "fill",
    "font_css",
    "link_back",
    "link_html",
    "list_html",
    "make_page",
    "table_html",
]
