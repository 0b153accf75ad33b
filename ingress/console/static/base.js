// What every module uses: texts of the page, pieces of HTML, toasts.
// Pieces come from our own server, which escapes what it puts in; this is the only place where text becomes HTML.
const policy = window.trustedTypes?.createPolicy("console", { createHTML: (html) => html });

export const texts = JSON.parse(document.body.dataset.texts ?? "{}");

export function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = policy ? policy.createHTML(html) : html;
  return template.content;
}

export function parsePage(html) {
  return new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html");
}

export function make(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

export function toast(text, kind = "success") {
  const made = make("div", { class: `toast ${kind}` });
  made.append(make("span", {}, text));
  document.getElementById("toasts").append(made);
  dismissLater(made);
}

export function dismissLater(element) {
  setTimeout(() => element.remove(), 7000);
}

/** Where a piece of the page was put in, as others want to make it work. */
export function announce(element) {
  document.dispatchEvent(new CustomEvent("console:inserted", { detail: element }));
}

export function onInserted(run) {
  run(document);
  document.addEventListener("console:inserted", (event) => run(event.detail));
}

/** The page at that address, as a document; null where the session is over. What nobody asked for keeps no session. */
export async function fetchPage(address, byItself = true) {
  const answer = await fetch(address, { headers: { "x-console-live": byItself ? "1" : "0" } });
  if (answer.status === 401) return null;
  return parsePage(await answer.text());
}
