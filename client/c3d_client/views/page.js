"use strict";
// The cursor of the page: a time, the clip whose middle is nearest, and the frame nearest to it.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};
const plot = at("plot");
const stills = [...document.querySelectorAll("#strip img")];
const count = data.clips.length;
const ROWS = 25;
const middle = (clip) => (data.clips[clip][1] + data.clips[clip][2]) / 2;
let now = 0; // seconds
let clip = 0; // of the cursor
let first = -1; // the clip of the table's first row

const percent = (share) => (share * 100).toFixed(share < 0.0995 ? 2 : 1) + "%";
const clock = (time) => {
  if (data.end < 120) return time.toFixed(2) + " s";
  const tenths = Math.round(time * 10);
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const seconds = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
};
const span = (clip) => `${clock(data.clips[clip][1])} – ${clock(data.clips[clip][2])}`;
const best = (clip) =>
  data.top[clip].map(([index, parts]) => ({
    index, label: data.labels[index], share: parts / data.parts,
  }));
const nearest = (length, time, of) => {
  let found = 0;
  for (let i = 1; i < length; i++) {
    if (Math.abs(of(i) - time) < Math.abs(of(found) - time)) found = i;
  }
  return found;
};

function key(index) {
  const drawn = document.querySelector(`#best svg[data-index="${index}"]`);
  return drawn ? drawn.cloneNode(true) : make("span");
}

function hue(index) {
  const line = document.querySelector(`#best svg[data-index="${index}"] line`);
  return line ? line.style.stroke : "";
}

function moveTo(time) {
  now = Math.min(Math.max(time, 0), data.end);
  clip = nearest(count, now, middle);
  const [, start, end] = data.clips[clip];
  const classes = best(clip);
  at("cursor").style.left = (100 * now) / data.end + "%";
  at("span").style.left = (100 * start) / data.end + "%";
  at("span").style.width = (100 * (end - start)) / data.end + "%";
  if (stills.length) {
    const still = stills[nearest(stills.length, now, (i) => Number(stills[i].dataset.time))];
    const text = `Frame ${still.dataset.index} at ${clock(Number(still.dataset.time))}`;
    at("frame").src = still.src;
    at("frame").alt = text;
    at("frame-text").textContent = text;
  }
  at("now").textContent = `${clock(now)}, clip ${clip + 1} of ${count}`;
  at("bars").replaceChildren(...classes.map(({ index, label, share }) => {
    const row = make("li");
    const track = make("div", "track");
    const bar = make("i");
    bar.style.width = 100 * share + "%";
    bar.style.background = hue(index);
    track.append(bar);
    row.append(key(index), make("span", "label", label), make("span", "num", percent(share)), track);
    return row;
  }));
  plot.setAttribute("aria-valuenow", now.toFixed(2));
  plot.setAttribute(
    "aria-valuetext",
    `${clock(now)}, clip ${clip + 1}: ${classes[0].label} ${percent(classes[0].share)}`,
  );
  if (first < 0 || clip < first || clip >= first + ROWS) showRows(clip - (clip % ROWS));
  mark();
}

function mark() {
  for (const row of at("rows").children) {
    if (Number(row.dataset.clip) === clip) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

function showRows(from) {
  first = from;
  const last = Math.min(first + ROWS, count);
  const rows = [];
  for (let i = first; i < last; i++) {
    const row = make("tr");
    row.dataset.clip = i;
    const button = make("button", "", i + 1);
    button.type = "button";
    button.setAttribute("aria-label", `Show clip ${i + 1}`);
    button.addEventListener("click", () => moveTo(middle(i)));
    const head = make("th");
    head.scope = "row";
    head.append(button);
    const text = make("td");
    best(i).forEach(({ label, share }, rank) => {
      if (rank) text.append(" · ");
      text.append(make("span", rank ? "other" : "", `${label} ${percent(share)}`));
    });
    row.append(head, make("td", "num", span(i)), text);
    rows.push(row);
  }
  at("rows").replaceChildren(...rows);
  at("shown").textContent = `${first + 1} – ${last} of ${count}`;
  at("back").disabled = first === 0;
  at("on").disabled = last === count;
  mark();
}

function turn(step) {
  showRows(first + step * ROWS);
}

function point(event) {
  const box = plot.getBoundingClientRect();
  moveTo(((event.clientX - box.left) / box.width) * data.end);
}

const STEPS = {
  ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1,
  PageDown: -10, PageUp: 10, Home: -count, End: count,
};
plot.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  moveTo(middle(Math.min(Math.max(clip + step, 0), count - 1)));
});
plot.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  plot.setPointerCapture(event.pointerId);
  point(event);
});
plot.addEventListener("pointermove", (event) => {
  if (plot.hasPointerCapture(event.pointerId)) point(event);
});
at("back").addEventListener("click", () => turn(-1));
at("on").addEventListener("click", () => turn(1));

plot.setAttribute("role", "slider");
plot.setAttribute("aria-label", "Time in the film");
plot.setAttribute("aria-valuemin", "0");
plot.setAttribute("aria-valuemax", data.end.toFixed(2));
plot.tabIndex = 0;
for (const id of ["player", "span", "cursor", "hint", "clips"]) at(id).hidden = false;
at("figure").hidden = !stills.length;
at("pager").hidden = count <= ROWS;
moveTo(middle(0));
