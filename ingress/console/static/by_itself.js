// What a page does by itself: a form that is sent once it is there, and a part that is asked for again every few seconds.
import { announce, fetchPage, onInserted } from "./base.js";

onInserted((root) => root.querySelectorAll("form[data-run]").forEach((form) => {
  form.removeAttribute("data-run");
  form.requestSubmit();
}));

// A code that a phone scans is another one after some seconds.
async function again(part) {
  if (!part.isConnected) return; // something else was faster
  const page = document.hidden ? null : await fetchPage(location.href).catch(() => null);
  const fresh = page?.getElementById(part.id);
  if (page && !fresh) return location.reload();
  if (fresh && fresh.outerHTML !== part.outerHTML) {
    document.title = page.title;
    part.replaceWith(fresh);
    return announce(fresh.parentNode);
  }
  setTimeout(again, part.dataset.again * 1000, part);
}

onInserted((root) => root.querySelectorAll("[data-again]:not([data-awaited])").forEach((part) => {
  part.dataset.awaited = "";
  setTimeout(again, part.dataset.again * 1000, part);
}));
