"use strict";
// The table of failures: filter, sort, pages. Without this script it shows all its rows.
const at = (id) => document.getElementById(id);

// Links lead to neighbours of this file; shown elsewhere, in Kubeflow's page say, they lead nowhere.
const here = decodeURIComponent(location.pathname);
if (!/\/runs\/[^/]+\/report\.html$/.test(here)) {
  for (const link of document.querySelectorAll("a[href]")) link.removeAttribute("href");
}

const table = at("failures");
if (table) {
  const ROWS = 50;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row, place) => ({
    row, place,
    kind: row.dataset.kind,
    text: row.textContent.toLowerCase(),
    keys: heads.map((_, column) => row.cells[column].textContent.trim().toLowerCase()),
  }));
  const names = new Intl.Collator("en", { numeric: true });
  let column = -1; // as the run has them
  let down = false;
  let first = 0;

  const show = () => {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = at("kind").value;
    const found = rows.filter((one) =>
      (!kind || one.kind === kind) && words.every((word) => one.text.includes(word)));
    found.sort((a, b) => {
      const order = column < 0 ? 0 : names.compare(a.keys[column], b.keys[column]);
      return (down ? -order : order) || a.place - b.place;
    });
    first = Math.min(first, Math.max(0, Math.ceil(found.length / ROWS) - 1) * ROWS);
    const last = Math.min(first + ROWS, found.length);
    body.replaceChildren(...found.slice(first, last).map((one) => one.row));
    heads.forEach((head, number) => {
      const order = number === column ? (down ? "descending" : "ascending") : "none";
      head.setAttribute("aria-sort", order);
    });
    const all = found.length === rows.length ? "" : ` (${rows.length.toLocaleString("en")} in the table)`;
    at("shown").textContent = found.length
      ? `${(first + 1).toLocaleString("en")} – ${last.toLocaleString("en")} of ${found.length.toLocaleString("en")}${all}`
      : `None of ${rows.length.toLocaleString("en")} fits`;
    at("back").disabled = first === 0;
    at("on").disabled = last === found.length;
    at("back").hidden = at("on").hidden = found.length <= ROWS;
  };
  const afresh = () => { first = 0; show(); };
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
      afresh();
    });
    head.replaceChildren(button);
  });
  at("filter").addEventListener("input", afresh);
  at("kind").addEventListener("change", afresh);
  at("back").addEventListener("click", () => turn(-1));
  at("on").addEventListener("click", () => turn(1));
  at("tools").hidden = rows.length < 2;
  at("pager").hidden = rows.length < 2;
  show();
}
