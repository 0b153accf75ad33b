// A switch that is looked at: its dry run begins by itself, Cancel closes the drawer, and what waits is asked for again.
import { announce, fetchPage, onInserted } from "./base.js";

onInserted((root) => root.querySelectorAll("form[data-run]").forEach((form) => {
  form.removeAttribute("data-run");
  form.requestSubmit();
}));

document.addEventListener("click", (event) => {
  const drawer = event.target.closest("a[data-cancel]")?.closest("dialog");
  if (!drawer) return;
  event.preventDefault();
  drawer.close();
});

// A code that a phone scans is another one after some seconds.
async function again(part) {
  const page = document.hidden ? null : await fetchPage(location.href).catch(() => null);
  const fresh = page?.getElementById(part.id);
  if (page && !fresh) return location.reload();
  if (fresh && fresh.outerHTML !== part.outerHTML) {
    part.replaceWith(fresh);
    return announce(fresh.parentNode);
  }
  setTimeout(again, part.dataset.again * 1000, part);
}

onInserted((root) => root.querySelectorAll("[data-again]").forEach((part) => setTimeout(again, part.dataset.again * 1000, part)));
