// The page of providers: another card's form without a reload, and a save that waits for its test.
import { announce, fetchPage } from "./base.js";
import "./by_itself.js";

document.addEventListener("change", async (event) => {
  if (!event.target.matches("[data-choose]")) return;
  const address = new URL(event.target.dataset.choose, location);
  history.replaceState(history.state, "", address);
  const panel = document.getElementById("panel");
  panel.classList.add("busy");
  const page = await fetchPage(address, false).catch(() => null);
  const fresh = page?.getElementById("panel");
  if (!fresh) return location.assign(address);
  if (location.href !== address.href) return; // another one was chosen meanwhile
  document.getElementById("panel").replaceWith(fresh);
  document.title = page.title;
  announce(fresh);
});

// What was tested is what is saved: who changes a field tests again.
document.addEventListener("input", (event) => {
  const form = event.target.closest(".config-form");
  if (!form) return;
  const field = event.target.closest(".field.wrong"); // it is not what was found wrong any more
  field?.classList.remove("wrong");
  field?.querySelector(".error")?.remove();
  event.target.removeAttribute("aria-invalid");
  form.querySelector("#review").replaceChildren();
  form.querySelector("#save").replaceChildren(form.querySelector("#unsaved").content.cloneNode(true));
});

// Who cancels a new secret keeps the stored one.
document.addEventListener("toggle", ({ target }) => {
  if (target.matches("details.secret") && !target.open) target.querySelector("input").value = "";
}, true);
