"use strict";
// Tables that are sorted by a click on a header, or by its key.
const Tables = (() => {
  // The number at the beginning of a cell: "1,234", "< 0.001", "0.34 ± 0.03", "1:02:05".
  function numberOf(text) {
    const clean = text.replace(/^[<>]\s*/, "").replace(/(\d),(?=\d{3}\b)/g, "$1");
    if (/^\d+(:\d\d)+$/.test(clean)) {
      return clean.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
    }
    const found = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(?![\w(])/i.exec(clean);
    return found ? Number(found[0]) : NaN;
  }

  const isMissing = (text) => ["", "-"].includes(text) || text.startsWith("none: ");

  function keysOf(cells) {
    const texts = cells.map((cell) => cell.textContent.trim());
    const numbers = texts.map(numberOf);
    const isNumeric = texts.every((text, k) => isMissing(text) || !Number.isNaN(numbers[k]));
    return texts.map((text, k) => (isMissing(text) ? null : isNumeric ? numbers[k] : text));
  }

  const compare = (a, b) =>
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const keys = keysOf(rows.map((row) => row.cells[column]));
    const order = rows.map((_, k) => k);
    order.sort((a, b) => {
      // What is missing comes last, whichever way the others go.
      if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null);
      return direction * compare(keys[a], keys[b]) || a - b;
    });
    body.append(...order.map((k) => rows[k]));
  }

  function start() {
    for (const table of document.querySelectorAll("table.sortable")) {
      const headers = [...table.tHead.rows[0].cells];
      headers.forEach((header, column) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...header.childNodes);
        button.title = "sort by this column";
        header.append(button);
        button.addEventListener("click", () => {
          const isUp = header.getAttribute("aria-sort") === "ascending";
          headers.forEach((other) => other.removeAttribute("aria-sort"));
          header.setAttribute("aria-sort", isUp ? "descending" : "ascending");
          sort(table, column, isUp ? -1 : 1);
        });
      });
    }
  }

  return { start };
})();
