"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const search = byId("search");
  const modules = [...document.querySelectorAll(".module")].reverse(); // what is inside before what is around
  const lines = [...document.querySelectorAll(".line")];
  const filters = [...document.querySelectorAll("[data-show]")];
  const texts = new Map();
  const wasOpen = new Map();
  root.classList.add("js");

  /* All that a layer can be found by: its modules, and what its row says. */
  function textOf(line) {
    if (!texts.has(line)) {
      let text = line.textContent;
      for (let at = line.closest(".module"); at; at = at.parentElement.closest(".module"))
        text += " " + at.firstElementChild.firstElementChild.textContent;
      texts.set(line, text.toLowerCase());
    }
    return texts.get(line);
  }

  /* While something is searched for, the modules that hold it are open; after that they are as they were. */
  function fold(searching) {
    for (const module of modules) {
      const holds = module.querySelector(".line:not([hidden])") !== null;
      module.hidden = !holds;
      if (searching && !wasOpen.has(module)) wasOpen.set(module, module.open);
      if (searching) module.open = holds;
      else if (wasOpen.has(module)) module.open = wasOpen.get(module);
    }
    if (!searching) wasOpen.clear();
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const statuses = filters.filter((one) => one.ariaPressed === "true").map((one) => one.dataset.show);
    const searching = words.length > 0 || statuses.length > 0;
    let found = 0;
    for (const line of lines) {
      const fits = (!statuses.length || statuses.includes(line.dataset.status))
        && (!words.length || words.every((word) => textOf(line).includes(word)));
      line.hidden = !fits;
      found += fits;
    }
    fold(searching);
    byId("found").textContent = searching ? `${found} of ${lines.length} shown` : "";
    byId("nothing").hidden = found > 0;
  }

  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 120); });
  for (const one of filters)
    one.addEventListener("click", () => { one.ariaPressed = String(one.ariaPressed !== "true"); show(); });
  byId("open-all").addEventListener("click", () => modules.forEach((module) => { module.open = true; }));
  byId("close-all").addEventListener("click", () => modules.forEach((module) => { module.open = false; }));

  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); }
    if (event.key === "Escape" && document.activeElement === search) { search.value = ""; show(); }
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
})();
