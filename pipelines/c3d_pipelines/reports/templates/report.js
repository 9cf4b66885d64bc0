"use strict";
// Filters, sorts and pages the table of failures. Without this script the table shows all rows.
const byId = (id) => document.getElementById(id);

// Links lead to files next to this one. A copy of the page, such as in Kubeflow, has no links.
const path = decodeURIComponent(location.pathname);
if (!/\/runs\/[^/]+\/report\.html$/.test(path)) {
  for (const link of document.querySelectorAll("a[href]")) link.removeAttribute("href");
}

const table = byId("failures");
if (table) {
  const ROWS = 50;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row, index) => ({
    row, index,
    kind: row.dataset.kind,
    text: row.textContent.toLowerCase(),
    keys: heads.map((_, column) => row.cells[column].textContent.trim().toLowerCase()),
  }));
  const names = new Intl.Collator("en", { numeric: true });
  let column = -1; // in the order of the run
  let down = false;
  let first = 0;

  const show = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = byId("kind").value;
    const matches = rows.filter((row) =>
      (!kind || row.kind === kind) && words.every((word) => row.text.includes(word)));
    matches.sort((a, b) => {
      const order = column < 0 ? 0 : names.compare(a.keys[column], b.keys[column]);
      return (down ? -order : order) || a.index - b.index;
    });
    first = Math.min(first, Math.max(0, Math.ceil(matches.length / ROWS) - 1) * ROWS);
    const last = Math.min(first + ROWS, matches.length);
    body.replaceChildren(...matches.slice(first, last).map((match) => match.row));
    heads.forEach((head, number) => {
      const order = number === column ? (down ? "descending" : "ascending") : "none";
      head.setAttribute("aria-sort", order);
    });
    const total = matches.length === rows.length ? "" : ` (${rows.length.toLocaleString("en")} in the table)`;
    byId("shown").textContent = matches.length
      ? `${(first + 1).toLocaleString("en")} – ${last.toLocaleString("en")} of ${matches.length.toLocaleString("en")}${total}`
      : `None of ${rows.length.toLocaleString("en")} match`;
    byId("back").disabled = first === 0;
    byId("on").disabled = last === matches.length;
    byId("back").hidden = byId("on").hidden = matches.length <= ROWS;
  };
  const restart = () => { first = 0; show(); };
  const turn = (step) => {
    first += step * ROWS;
    show();
    table.scrollIntoView({ block: "start" });
  };

  heads.forEach((head, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      down = column === number && !down;
      column = number;
      restart();
    });
    head.replaceChildren(button);
  });
  byId("filter").addEventListener("input", restart);
  byId("kind").addEventListener("change", restart);
  byId("back").addEventListener("click", () => turn(-1));
  byId("on").addEventListener("click", () => turn(1));
  byId("tools").hidden = rows.length < 2;
  byId("pager").hidden = rows.length < 2;
  show();
}
