import { announce, dismissLater, fetchPage, make, onInserted, parse, texts, toast } from "./base.js";
import "./live.js";
import "./keys.js";

document.documentElement.classList.add("scripted");

// ---------------------------------------------------------------- times: relative, with UTC and local on hover
const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "always" });
const local = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "long" });

function showTime(time) {
  const at = new Date(time.dateTime);
  const passed = (Date.now() - at) / 1000;
  const utc = `${at.toISOString().replace("T", " ").slice(0, 19)} UTC`;
  time.title = `${utc}\n${local.format(at)}`;
  if (!time.dataset.shown) {  // as the server wrote it a moment ago: a page does not move once it is shown
    time.dataset.shown = "1";
    return;
  }
  const fitting = units.find(([, size]) => passed >= size);
  if (!fitting || passed >= 30 * 86400) return;  // as the server says it: nothing moves
  const [unit, seconds] = fitting;
  time.textContent = relative.format(-Math.floor(Math.max(0, passed) / seconds), unit);
}

function countDown(time) {
  const left = Math.max(0, Math.round((new Date(time.dateTime) - Date.now()) / 1000));
  time.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} ${texts.left}`;
}

onInserted((root) => root.querySelectorAll("time[data-when]").forEach(showTime));
onInserted((root) => root.querySelectorAll("time[data-ticking]").forEach(countDown));
setInterval(() => document.querySelectorAll("time[data-when]").forEach(showTime), 20000);
setInterval(() => document.querySelectorAll("time[data-ticking]").forEach(countDown), 1000);

// ---------------------------------------------------------------- small behaviours, for whatever is put in later too
document.addEventListener("click", async (event) => {
  const target = event.target.closest("[data-copy], [data-copy-text], [data-dialog], [data-close], [data-dismiss], a[data-drawer]");
  if (!target) return;
  if (target.matches("[data-dismiss]")) target.closest(".toast").remove();
  else if (target.matches("[data-close]")) target.closest("dialog").close();
  else if (target.matches("[data-dialog]")) {
    event.preventDefault();
    document.getElementById(target.dataset.dialog).showModal();
  } else if (target.matches("a[data-drawer]")) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openDrawer(target.href);
  } else {
    await navigator.clipboard.writeText(target.dataset.copyText ?? document.querySelector(target.dataset.copy).textContent);
    toast(texts.copied);
  }
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});
document.querySelectorAll("#toasts .toast").forEach(dismissLater);
if (new URL(location).searchParams.has("done")) {  // said once, not after each reload
  const address = new URL(location);
  address.searchParams.delete("done");
  history.replaceState(history.state, "", address);
}

// A form is sent once: a second click while the first is on its way is nothing.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "dialog" || event.defaultPrevented) return;
  if (form.dataset.sent) return event.preventDefault();
  if (form.matches("[data-stream]")) return stream(event);
  if (form.method === "post") {
    form.dataset.sent = "1";
    event.submitter?.setAttribute("aria-busy", "true");
  }
});
window.addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach(release));

function release(form) {
  delete form.dataset.sent;
  form.querySelectorAll("[aria-busy]").forEach((button) => button.removeAttribute("aria-busy"));
}

// ---------------------------------------------------------------- what takes a while, shown as it is done
async function stream(event) {
  const form = event.target;
  event.preventDefault();
  form.dataset.sent = "1";
  event.submitter?.setAttribute("aria-busy", "true");
  placeOf("problem").replaceChildren();
  form.querySelectorAll("[data-stream-target]").forEach((target) => target.replaceChildren());
  const body = new URLSearchParams(new FormData(form, event.submitter));
  try {
    const answer = await fetch(event.submitter?.getAttribute("formaction") ?? form.action, { method: "POST", body, headers: { accept: "text/event-stream" } });
    if (!answer.headers.get("content-type").startsWith("text/event-stream")) return showAnswer(await answer.text());
    for await (const [kind, data] of eventsOf(answer.body)) {
      if (kind === "go") return location.assign(data.location);
      put(data);
    }
  } catch {
    toast(texts.failed, "danger");
  } finally {
    release(form);
  }
}

async function* eventsOf(body) {
  let text = "";
  for await (const piece of body.pipeThrough(new TextDecoderStream())) {
    text += piece;
    const events = text.split("\n\n");
    text = events.pop();
    for (const each of events) {
      const kind = /^event: (.*)$/m.exec(each)?.[1];
      if (kind) yield [kind, JSON.parse(/^data: (.*)$/m.exec(each)[1])];
    }
  }
}

function put({ target, html, replace }) {
  const place = placeOf(target);
  const piece = parse(html);
  if (replace) place.replaceChildren(piece);
  else place.append(piece);
  announce(place);
  if (target === "problem") place.scrollIntoView({ block: "center" });
}

/** The element of that id: of the page in the drawer, where one is open. */
function placeOf(id) {
  return (drawer?.open && drawer.querySelector(`#${CSS.escape(id)}`)) || document.getElementById(id);
}

/** The answer is a whole page (a form with what is wrong, or a problem): its content takes the place of this one's. */
function showAnswer(html) {
  const content = parse(html).querySelector("#content");
  if (drawer?.open) {
    fillDrawer(content);
    return announce(drawer);
  }
  document.getElementById("content").replaceWith(content);
  announce(content);
  content.focus();
}

// ---------------------------------------------------------------- a page in a drawer, with its own address
const drawer = document.getElementById("drawer");

function fillDrawer(page) {
  const close = make("button", { class: "icon-button close", type: "button", "data-close": "", "aria-label": texts.close }, "×");
  const content = make("div", { class: "drawer-content" });
  content.append(...page.childNodes);
  drawer.replaceChildren(close, content);
}

async function openDrawer(address, push = true) {
  const waiting = make("div");
  waiting.append(parse('<div class="skeleton" aria-hidden="true"><span></span><span></span><span></span><span></span><span></span></div>'));
  fillDrawer(waiting);
  if (!drawer.open) drawer.showModal();
  const page = await fetchPage(address, false).catch(() => null);
  if (!page) return location.assign(address);
  fillDrawer(page.getElementById("content"));
  drawer.querySelector("[autofocus]")?.focus();
  drawer.dataset.title ??= document.title;
  document.title = page.title;
  if (push) history.pushState({ drawer: address, from: location.href }, "", address);
  announce(drawer);
  page.querySelectorAll("script[type=module]").forEach((script) => import(script.src));
}

drawer?.addEventListener("close", () => {
  document.title = drawer.dataset.title;
  if (history.state?.drawer) history.back();
});
window.addEventListener("popstate", (event) => {
  if (event.state?.drawer) openDrawer(event.state.drawer, false);
  else if (drawer?.open) drawer.close();
});

// ---------------------------------------------------------------- tabs; lists that are put in order by dragging
onInserted((root) => root.querySelectorAll("[data-tabs]").forEach((list) => {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const show = (chosen) => tabs.forEach((tab) => {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  });
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", (event) => { event.preventDefault(); show(tab); });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      show(next);
      next.focus();
    });
  });
  show(tabs.find((tab) => tab.getAttribute("aria-selected") === "true") ?? tabs[0]);
}));

let dragged = null;
document.addEventListener("dragstart", (event) => { dragged = event.target.closest?.("[data-reorder] > *"); });
document.addEventListener("dragover", (event) => {
  const over = event.target.closest?.("[data-reorder] > *");
  if (!dragged || !over || over === dragged || over.parentNode !== dragged.parentNode) return;
  event.preventDefault();
  const half = over.getBoundingClientRect();
  over[event.clientY < half.top + half.height / 2 ? "before" : "after"](dragged);
});
document.addEventListener("drop", (event) => event.preventDefault());
document.addEventListener("dragend", () => {
  dragged?.parentNode.closest("form")?.requestSubmit();
  dragged = null;
});
