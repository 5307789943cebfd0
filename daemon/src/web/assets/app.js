// Keeps an open page current and shows times in the reader's own zone. The page is readable without it.
"use strict";

const RETRY_AFTER_REFUSAL_MS = 5000;
const AGES_EVERY_MS = 5000;
/** Pause between refreshes: the table of images shows each change at once, other pages need not. */
const PAUSE_MS = document.querySelector("#images, #image") ? 0 : 4000;
/** Older images, finished images, and pages with forms do not update themselves. */
const isLive = () => document.querySelector("section[data-live], article[data-live]") !== null;

/** The server's HTML of a row or a part, before times were made local, for detecting changes. */
const sent = new WeakMap();
/** Removes ages, which grow without a change. */
const shape = (html) => html.replace(/(<time class="age[^>]*>)[^<]*/g, "$1");
/** Offset of the board's clock to the reader's. Ages use the board's clock, which may be wrong: boards have no battery. */
let ahead = Number(document.documentElement.dataset.now) - Date.now();
let events = null;
let refreshing = false;
let again = false;
/** True if newer rows wait because the reader has scrolled down the table. */
let waiting = false;

function showLocalTimes() {
  const today = new Date().toDateString();
  const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  for (const element of document.querySelectorAll("time[datetime]:not(.age, .day)")) {
    const moment = new Date(element.dateTime);
    // Below the heading of its day, a moment is a time of day.
    const short = moment.toDateString() === today || element.closest(".days");
    const text = (short ? time : date).format(moment);
    if (element.textContent !== text) element.textContent = text;
    element.title = full.format(moment);
  }
}

/** Puts sightings under headings of the reader's own days; those of the server are days of UTC. */
function showOwnDays() {
  const days = document.querySelector("#timeline .days:not([data-own])");
  if (!days) return;
  days.dataset.own = "";
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
  const parts = [];
  let day = null;
  for (const visited of [...days.querySelectorAll(".visited")]) {
    const moment = new Date(visited.querySelector("time:not(.age)").dateTime);
    if (moment.toDateString() !== day) {
      day = moment.toDateString();
      const heading = document.createElement("h2");
      heading.textContent = full.format(moment);
      const list = document.createElement("ol");
      list.className = "timeline";
      parts.push(heading, list);
    }
    parts.at(-1).append(visited);
  }
  days.replaceChildren(...parts);
}

/** Formats an age as the server does: "now", "12 s", "3 min", "5 h", "2 d". */
function age(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${seconds}\u00a0s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}\u00a0h`;
  return `${Math.floor(seconds / 86400)}\u00a0d`;
}

function showAges() {
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  for (const element of document.querySelectorAll("time.age")) {
    const moment = new Date(element.dateTime);
    let text = age(Date.now() + ahead - moment);
    if (element.classList.contains("past")) text = text === "now" ? "just now" : `${text}\u00a0ago`;
    if (element.textContent !== text) element.textContent = text;
    element.title = full.format(moment);
  }
}

function rememberRows() {
  for (const row of document.querySelectorAll("#images tbody tr")) sent.set(row, shape(row.outerHTML));
}

/** Returns the row at the top of the view, or null while the top of the table is in view. */
function rowInView() {
  const table = document.querySelector("#images table");
  if (!table || table.getBoundingClientRect().top >= 0) return null;
  return [...table.tBodies[0].rows].find((row) => row.getBoundingClientRect().bottom > 40) ?? null;
}

function mergeRows(body, fresh) {
  const old = new Map([...body.rows].map((row) => [row.id, row]));
  const rows = [...fresh.rows].map((row) => {
    const kept = old.get(row.id);
    if (kept && sent.get(kept) === shape(row.outerHTML)) return kept;
    const added = document.importNode(row, true);
    sent.set(added, shape(row.outerHTML));
    added.classList.add("fresh");
    kept?.replaceWith(added);
    return added;
  });
  const staying = new Set(rows);
  for (const row of [...body.rows]) if (!staying.has(row)) row.remove();
  rows.forEach((row, place) => {
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
  });
}

function replacePart(part, fresh) {
  const body = part.querySelector(":scope > .images > tbody");
  const freshBody = fresh.querySelector(":scope > .images > tbody");
  if (body && freshBody) {
    mergeRows(body, freshBody);
    part.querySelector(".pages").replaceWith(document.importNode(fresh.querySelector(".pages"), true));
  } else if (sent.get(part) !== shape(fresh.innerHTML)) {
    // Unchanged parts stay, so that a screen reader reads only what is new.
    sent.set(part, shape(fresh.innerHTML));
    part.toggleAttribute("data-live", fresh.hasAttribute("data-live"));
    for (const details of part.querySelectorAll("details[id]")) {
      fresh.querySelector(`#${details.id}`)?.toggleAttribute("open", details.open);
    }
    part.replaceChildren(...[...fresh.childNodes].map((node) => document.importNode(node, true)));
    rememberRows();
  }
}

/** Restores the keyboard focus if the focused link was replaced. */
function keepFocus(change) {
  const focused = document.activeElement;
  const href = focused?.getAttribute("href");
  const holder = focused?.closest("[id]:not(a)")?.id;
  change();
  if (href && holder && document.activeElement === document.body) {
    const links = document.getElementById(holder)?.querySelectorAll("a") ?? [];
    [...links].find((link) => link.getAttribute("href") === href)?.focus({ preventScroll: true });
  }
}

function show(fresh) {
  const anchor = rowInView();
  const id = anchor?.id;
  const before = anchor?.getBoundingClientRect().top;
  // The reader's row is no longer among the newest: leave the table as it is and say so.
  waiting = Boolean(id) && fresh.getElementById(id) === null;
  const notice = document.getElementById("newer");
  if (notice) notice.hidden = !waiting;
  keepFocus(() => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const freshPart = fresh.getElementById(part.id);
      if (freshPart && !(waiting && part.id === "images")) replacePart(part, freshPart);
    }
    showOwnDays();
  });
  ahead = Number(fresh.documentElement.dataset.now) - Date.now();
  showLocalTimes();
  showAges();
  listenWhenVisible();
  if (id) window.scrollBy({ top: document.getElementById(id).getBoundingClientRect().top - before, behavior: "instant" });
}

async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  do {
    again = false;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
      // Reading may require a login by now; keep the shown content.
      if (!answer.ok || answer.redirected) break;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      // A different version of kithd answers than the one that made this page.
      if (fresh.documentElement.dataset.version !== document.documentElement.dataset.version) location.reload();
      else show(fresh);
    } catch {
      // The server is away; the event stream reconnects by itself and causes another refresh.
    }
    if (PAUSE_MS > 0) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  } while (again);
  refreshing = false;
}

function say(text) {
  const connection = document.getElementById("connection");
  connection.hidden = text === "";
  connection.textContent = text;
  connection.dataset.state = text;
}

function listen() {
  if (events) return;
  // A proxy may serve the first page under a path of its own.
  events = new EventSource(new URL("events", document.querySelector("a.brand").href));
  events.addEventListener("open", () => say("live"));
  events.addEventListener("changed", refresh);
  events.addEventListener("error", () => {
    say("reconnecting");
    if (events?.readyState === EventSource.CLOSED) {
      stop();
      setTimeout(listenWhenVisible, RETRY_AFTER_REFUSAL_MS);
    }
  });
}

function stop() {
  events?.close();
  events = null;
}

/** Hidden tabs and finished images hold no connection: browsers allow six to one server. */
function listenWhenVisible() {
  if (isLive() && !document.hidden) {
    listen();
  } else {
    stop();
    say("");
  }
}

/** Converts date fields, which hold UTC without a script, to the reader's own time. */
function readTimesInOwnZone(form) {
  const fields = [...form.querySelectorAll("input[type=datetime-local]")];
  for (const field of fields) {
    const moment = new Date(`${field.defaultValue}Z`);
    if (field.defaultValue && !isNaN(moment)) {
      field.value = new Date(moment - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
    }
  }
  for (const zone of form.querySelectorAll(".zone")) zone.hidden = true;
  form.addEventListener("formdata", ({ formData }) => {
    for (const { name, value } of fields) {
      const moment = new Date(value);
      if (value && !isNaN(moment)) formData.set(name, moment.toISOString().slice(0, 16));
    }
    // A day is one of the reader's own zone.
    const day = formData.get("day");
    if (formData.has("zone")) formData.set("zone", day ? -new Date(`${day}T00:00`).getTimezoneOffset() : "");
    // Empty fields are left out of the address.
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
}

/** Removes the outcome of a form from the address, so that a reload does not show it again. */
function forgetTold() {
  const here = new URL(location.href);
  if (!here.searchParams.has("done") && !here.searchParams.has("refused")) return;
  here.searchParams.delete("done");
  here.searchParams.delete("refused");
  history.replaceState(history.state, "", here);
}

/** Continues a search that found nothing among the limited number of images searched at a time. */
function searchOn() {
  const older = document.querySelector("a[data-search]");
  if (older) location.replace(older.href);
}

searchOn();
rememberRows();
for (const part of document.querySelectorAll("[data-live]")) sent.set(part, shape(part.innerHTML));
showOwnDays();
showLocalTimes();
showAges();
setInterval(showAges, AGES_EVERY_MS);
forgetTold();
const search = document.getElementById("search");
if (search) readTimesInOwnZone(search);
listenWhenVisible();
document.addEventListener("visibilitychange", listenWhenVisible);
window.addEventListener("scroll", () => { if (waiting && rowInView() === null) refresh(); }, { passive: true });
