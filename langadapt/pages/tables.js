"use strict";

// Tables that a click on a column's head sorts.

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    const missing = cell.classList.contains("missing");
    return { row, missing, number: Number(cell.dataset.value ?? NaN), text: cell.textContent };
  });
  rows.sort((a, b) => {
    if (a.missing !== b.missing) return a.missing ? 1 : -1;  // always last
    const order = Number.isNaN(a.number - b.number) ? a.text.localeCompare(b.text) : a.number - b.number;
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) =>
    head.addEventListener("click", () => sortBy(table, column)));
}
