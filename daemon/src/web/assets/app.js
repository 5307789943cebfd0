// Keeps an open page current and shows times in the reader's own zone. Nothing here is needed to read the page.
"use strict";

const RETRY_AFTER_REFUSAL_MS = 5000;
/** The newest images, or one image that is not finished yet; every other page stands still. */
const isLive = () => document.querySelector("#images[data-live], #image[data-live]") !== null;

/** What the server sent for a row, before times were made local: tells whether the row changed. */
const sent = new WeakMap();
let events = null;
let refreshing = false;
let again = false;
/** Newer rows wait because the reader is somewhere else in the table. */
let waiting = false;

function showLocalTimes() {
  const today = new Date().toDateString();
  const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  for (const element of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    const text = (moment.toDateString() === today ? time : date).format(moment);
    if (element.textContent !== text) element.textContent = text;
    element.title = full.format(moment);
  }
}

function rememberRows() {
  for (const row of document.querySelectorAll("#images tbody tr")) sent.set(row, row.outerHTML);
}

/** The row the reader is looking at, or null while the top of the table is in view. */
function rowInView() {
  const table = document.querySelector("#images table");
  if (!table || table.getBoundingClientRect().top >= 0) return null;
  return [...table.tBodies[0].rows].find((row) => row.getBoundingClientRect().bottom > 40) ?? null;
}

function mergeRows(body, fresh) {
  const old = new Map([...body.rows].map((row) => [row.id, row]));
  const rows = [...fresh.rows].map((row) => {
    const kept = old.get(row.id);
    if (kept && sent.get(kept) === row.outerHTML) return kept;
    const added = document.importNode(row, true);
    sent.set(added, row.outerHTML);
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
  const body = part.querySelector(":scope > table > tbody");
  const freshBody = fresh.querySelector(":scope > table > tbody");
  if (body && freshBody) {
    mergeRows(body, freshBody);
    part.querySelector(".pages").replaceWith(document.importNode(fresh.querySelector(".pages"), true));
  } else if (sent.get(part) !== fresh.innerHTML) {
    // Untouched parts stay, so that a screen reader hears only what is new.
    sent.set(part, fresh.innerHTML);
    part.toggleAttribute("data-live", fresh.hasAttribute("data-live"));
    part.replaceChildren(...[...fresh.childNodes].map((node) => document.importNode(node, true)));
    rememberRows();
  }
}

/** Puts the keyboard back on the link it was on, if its row was replaced. */
function keepFocus(change) {
  const row = document.activeElement?.closest("#images tr")?.id;
  change();
  if (row && document.activeElement === document.body) {
    document.getElementById(row)?.querySelector("a")?.focus({ preventScroll: true });
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
  });
  showLocalTimes();
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
      if (!answer.ok) break;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      // Another kithd answers than the one that made this page.
      if (fresh.documentElement.dataset.version !== document.documentElement.dataset.version) location.reload();
      else show(fresh);
    } catch {
      // The server is gone for the moment; the event stream comes back by itself and asks again.
    }
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
  events = new EventSource("/events");
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

rememberRows();
for (const part of document.querySelectorAll("[data-live]")) sent.set(part, part.innerHTML);
showLocalTimes();
listenWhenVisible();
document.addEventListener("visibilitychange", listenWhenVisible);
window.addEventListener("scroll", () => { if (waiting && rowInView() === null) refresh(); }, { passive: true });
