// All of a page are chosen with one click, or none of them.
import { onInserted } from "./base.js";

onInserted((root) => root.querySelectorAll("[data-choose-all]").forEach((button) => {
  const boxes = () => [...button.closest("form").querySelectorAll("input[name=id]")];
  button.hidden = false;
  button.addEventListener("click", () => {
    const all = boxes().every((box) => box.checked);
    boxes().forEach((box) => { box.checked = !all; });
  });
}));
