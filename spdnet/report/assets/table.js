// A table that sorts by any column; its headings are buttons.

// columns: [{key, label, number, value(row), cell(row)}]; value sorts, null always last.
function sortableTable(columns, rows, firstKey, caption) {
  const body = make("tbody");
  const headings = columns.map((column) => heading(column, () => sortBy(column)));
  let order = { key: firstKey, ascending: true };

  function sortBy(column) {
    order = { key: column.key, ascending: order.key === column.key ? !order.ascending : true };
    update();
  }

  function update() {
    const column = columns.find((c) => c.key === order.key);
    const sorted = [...rows].sort((a, b) => compare(column.value(a), column.value(b), order.ascending));
    replaceChildren(body, sorted.map((row) => make("tr", {}, columns.map((c) => cell(c, row)))));
    headings.forEach((h, i) => {
      const active = columns[i].key === order.key;
      h.setAttribute("aria-sort", active ? (order.ascending ? "ascending" : "descending") : "none");
      h.querySelector(".arrow").textContent = active ? (order.ascending ? " ▲" : " ▼") : "";
    });
  }

  update();
  const head = make("thead", {}, make("tr", {}, headings));
  return make("table", {}, make("caption", { class: "visually-hidden" }, caption), head, body);
}

function heading(column, sort) {
  const button = make("button", { type: "button", click: sort }, column.label, make("span", { class: "arrow" }));
  return make("th", { scope: "col", class: column.number ? "number" : null, "data-key": column.key }, button);
}

function cell(column, row) {
  return make("td", { class: column.number ? "number" : null }, column.cell(row));
}

function compare(a, b, ascending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  return ascending ? order : -order;
}
