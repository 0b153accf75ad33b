// Keys, none while something is typed; a sheet shows them, and they can be switched off (WCAG 2.1.4).
const STORED = "console-keys-off";
const isOff = () => localStorage.getItem(STORED) === "1";
let began = null;

document.querySelectorAll("[data-keys-off]").forEach((box) => {
  box.checked = isOff();
  box.addEventListener("change", () => localStorage.setItem(STORED, box.checked ? "1" : "0"));
});

function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  const next = Math.min(rows.length - 1, Math.max(0, at + by));
  rows[at]?.classList.remove("at");
  rows[next].classList.add("at");
  (rows[next].matches("a, button") ? rows[next] : rows[next].querySelector("a[data-drawer]") ?? rows[next].querySelector("a, button"))?.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || isOff()) return;
  if (began === "g") {
    began = null;
    document.querySelector(`[data-key="g ${CSS.escape(event.key)}"]`)?.click();
    return;
  }
  if (event.key === "g") {
    began = "g";
    setTimeout(() => { began = null; }, 1500);
  } else if (event.key === "/") {
    event.preventDefault();
    document.querySelector("[data-search]")?.focus();
  } else if (event.key === "?") document.getElementById("keys")?.showModal();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
});
