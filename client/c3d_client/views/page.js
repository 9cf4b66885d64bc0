"use strict";
// Moves the cursor of the page: a time, with the clip whose middle is nearest and the nearest frame.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const element = (tag, className, text) => {
  const created = document.createElement(tag);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
};
const plot = byId("plot");
const thumbnails = [...document.querySelectorAll("#strip img")];
const count = data.clips.length;
const PAGE_ROWS = 25;
const middle = (clip) => (data.clips[clip][1] + data.clips[clip][2]) / 2;
let now = 0; // the cursor's time in seconds
let clip = 0; // the cursor's clip
let first = -1; // the clip in the first row of the table

const percent = (share) => (share * 100).toFixed(share < 0.0995 ? 2 : 1) + "%";
const timeText = (time) => {
  if (data.end < 120) return time.toFixed(2) + " s";
  const tenths = Math.round(time * 10);
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const seconds = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
};
const clipSpan = (clip) => `${timeText(data.clips[clip][1])} – ${timeText(data.clips[clip][2])}`;
const best = (clip) =>
  data.top[clip].map(([index, parts]) => ({
    index, label: data.labels[index], share: parts / data.parts,
  }));
const nearest = (length, time, timeOf) => {
  let index = 0;
  for (let i = 1; i < length; i++) {
    if (Math.abs(timeOf(i) - time) < Math.abs(timeOf(index) - time)) index = i;
  }
  return index;
};

function legendKey(index) {
  const drawn = document.querySelector(`#best svg[data-index="${index}"]`);
  return drawn ? drawn.cloneNode(true) : element("span");
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
  byId("cursor").style.left = (100 * now) / data.end + "%";
  byId("span").style.left = (100 * start) / data.end + "%";
  byId("span").style.width = (100 * (end - start)) / data.end + "%";
  if (thumbnails.length) {
    const thumbnail = thumbnails[nearest(thumbnails.length, now, (i) => Number(thumbnails[i].dataset.time))];
    const text = `Frame ${thumbnail.dataset.index} at ${timeText(Number(thumbnail.dataset.time))}`;
    byId("frame").src = thumbnail.src;
    byId("frame").alt = text;
    byId("frame-text").textContent = text;
  }
  byId("now").textContent = `${timeText(now)}, clip ${clip + 1} of ${count}`;
  byId("bars").replaceChildren(...classes.map(({ index, label, share }) => {
    const row = element("li");
    const track = element("div", "track");
    const bar = element("i");
    bar.style.width = 100 * share + "%";
    bar.style.background = hue(index);
    track.append(bar);
    row.append(legendKey(index), element("span", "label", label), element("span", "num", percent(share)), track);
    return row;
  }));
  plot.setAttribute("aria-valuenow", now.toFixed(2));
  plot.setAttribute(
    "aria-valuetext",
    `${timeText(now)}, clip ${clip + 1}: ${classes[0].label} ${percent(classes[0].share)}`,
  );
  if (first < 0 || clip < first || clip >= first + PAGE_ROWS) showRows(clip - (clip % PAGE_ROWS));
  markRow();
}

function markRow() {
  for (const row of byId("rows").children) {
    if (Number(row.dataset.clip) === clip) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

function showRows(from) {
  first = from;
  const last = Math.min(first + PAGE_ROWS, count);
  const rows = [];
  for (let i = first; i < last; i++) {
    const row = element("tr");
    row.dataset.clip = i;
    const button = element("button", "", i + 1);
    button.type = "button";
    button.setAttribute("aria-label", `Show clip ${i + 1}`);
    button.addEventListener("click", () => moveTo(middle(i)));
    const head = element("th");
    head.scope = "row";
    head.append(button);
    const text = element("td");
    best(i).forEach(({ label, share }, rank) => {
      if (rank) text.append(" · ");
      text.append(element("span", rank ? "other" : "", `${label} ${percent(share)}`));
    });
    row.append(head, element("td", "num", clipSpan(i)), text);
    rows.push(row);
  }
  byId("rows").replaceChildren(...rows);
  byId("shown").textContent = `${first + 1} – ${last} of ${count}`;
  byId("previous").disabled = first === 0;
  byId("next").disabled = last === count;
  markRow();
}

function turnPage(step) {
  showRows(first + step * PAGE_ROWS);
}

function moveToPointer(event) {
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
  moveToPointer(event);
});
plot.addEventListener("pointermove", (event) => {
  if (plot.hasPointerCapture(event.pointerId)) moveToPointer(event);
});
byId("previous").addEventListener("click", () => turnPage(-1));
byId("next").addEventListener("click", () => turnPage(1));

plot.setAttribute("role", "slider");
plot.setAttribute("aria-label", "Time in the video");
plot.setAttribute("aria-valuemin", "0");
plot.setAttribute("aria-valuemax", data.end.toFixed(2));
plot.tabIndex = 0;
for (const id of ["player", "span", "cursor", "hint", "clips"]) byId(id).hidden = false;
byId("figure").hidden = !thumbnails.length;
byId("pager").hidden = count <= PAGE_ROWS;
moveTo(middle(0));
