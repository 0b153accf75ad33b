// One stream for the visible tab: what is marked with data-live is fetched again when one of its topics changed.
import { announce, fetchPage, make, texts, toast } from "./base.js";

const state = document.querySelector("[data-live-state]");
let source = null;
let opened = false;
let paused = false;
let refreshing = null;
let heard = 0;
// The server says something every ten seconds: what is silent for longer is gone, though nobody closed it.
const SILENT_MS = 25000;
const changed = new Set();

function say(text, lost = false) {
  if (!state || parts().every((part) => part.closest(".topbar"))) return;  // nothing but the bell is live here
  state.hidden = false;
  state.textContent = text;
  state.classList.toggle("lost", lost);
}

function updated() {
  const time = new Intl.DateTimeFormat(document.documentElement.lang, { timeStyle: "medium" }).format(new Date());
  say(`${texts.updated} ${time} · ${paused ? texts.paused : texts.live}`);
}

function parts() {
  return [...document.querySelectorAll("[data-live]")];
}

function connect() {
  if (source || document.hidden || !document.body.hasAttribute("data-signed-in") || !parts().length) return;
  source = new EventSource("/console/live");
  heard = Date.now();
  source.addEventListener("open", () => {
    heard = Date.now();
    changed.add("tick");
    if (opened) changed.add("notifications");  // what came while nobody listened; a fresh page has all
    opened = true;
    refresh();
  });
  source.addEventListener("changed", (event) => {
    heard = Date.now();
    event.data.split(" ").forEach((topic) => changed.add(topic));
    refresh();
  });
  source.addEventListener("ended", () => { disconnect(); say(texts.ended, true); toast(texts.ended, "danger"); });
  source.addEventListener("error", () => {
    say(texts.lost, true);
    if (source?.readyState === EventSource.CLOSED) { disconnect(); setTimeout(connect, 3000); }
  });
}

function watch() {
  if (!source || Date.now() - heard < SILENT_MS) return;
  say(texts.lost, true);
  disconnect();
  connect();
}

function disconnect() {
  source?.close();
  source = null;
}

async function refresh() {
  if (refreshing) return;
  refreshing = true;
  try {
    while (changed.size) {
      const topics = new Set(changed);
      changed.clear();
      const wanted = parts().filter((part) => part.dataset.live.split(" ").some((topic) => topics.has(topic)) && !(paused && part.hasAttribute("data-pausable")));
      if (!wanted.length || isBusy(wanted)) { updated(); continue; }
      const page = await fetchPage(location.href);
      if (!page) { disconnect(); say(texts.ended, true); return; }
      document.title = page.title;
      wanted.forEach((part) => renew(part, page.getElementById(part.id)));
      updated();
    }
  } catch {
    say(texts.lost, true);
  } finally {
    refreshing = null;
  }
}

/** Nobody's input is taken away: what is being used is not renewed. */
function isBusy(wanted) {
  const focus = document.activeElement;
  return wanted.some((part) => part.contains(focus) && focus.matches("input:not([type=radio]), select, textarea")) || document.querySelector("dialog[open]:not(.drawer) form");
}

function renew(part, fresh) {
  if (!fresh || fresh.outerHTML === part.dataset.shown) return;
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  const shown = fresh.outerHTML;
  part.replaceWith(fresh);
  fresh.dataset.shown = shown;
  if (focused) document.getElementById(focused)?.focus();
  announce(fresh);
}

setInterval(watch, 5000);
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-live-pause]");
  if (!button) return;
  paused = !paused;
  button.setAttribute("aria-pressed", String(paused));
  changed.add("events").add("tick");
  refresh();
});
window.addEventListener("offline", () => say(texts.lost, true));
window.addEventListener("pagehide", disconnect);
window.addEventListener("pageshow", connect);
connect();
