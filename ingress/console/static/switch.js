// A switch that is looked at: its dry run begins by itself, and Cancel closes the drawer.
import "./by_itself.js";

document.addEventListener("click", (event) => {
  const drawer = event.target.closest("a[data-cancel]")?.closest("dialog");
  if (!drawer) return;
  event.preventDefault();
  drawer.close();
});
