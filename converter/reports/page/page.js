"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const search = byId("search");
  const modules = [...document.querySelectorAll(".module")].reverse(); // what is inside before what is around
  const tables = [...document.querySelectorAll("noscript.rows")].map((holder) => ({ holder, rows: null, lines: null, fits: null }));
  const byHolder = new Map(tables.map((table) => [table.holder, table]));
  const others = [...document.querySelectorAll("tr.line")];
  const filters = [...document.querySelectorAll("[data-show]")];
  const wasOpen = new Map();
  const OPENED = 300; // of more layers that are found, the modules stay closed
  document.documentElement.classList.add("js");

  /* A table is a text until it is looked at. */
  function build(table) {
    if (!table.lines) {
      table.holder.insertAdjacentHTML("afterend", table.holder.textContent);
      table.lines = [...table.holder.nextElementSibling.querySelectorAll(".line")];
    }
    table.lines.forEach((line, at) => { line.hidden = table.fits !== null && !table.fits[at]; });
  }
  function buildInside(parent) {
    for (const child of parent.children) if (byHolder.has(child)) build(byHolder.get(child));
  }

  const MEANT = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&amp;": "&" };
  function modulesAround(node) {
    let names = "";
    for (let at = node.closest(".module"); at; at = at.parentElement.closest(".module"))
      names += " " + at.firstElementChild.firstElementChild.textContent;
    return names;
  }
  /* All that a layer is found by: its status, its modules, and what its row says. */
  function rowsOf(table) {
    if (!table.rows) {
      const around = modulesAround(table.holder).toLowerCase();
      table.rows = table.holder.textContent.split("<tbody class=line data-status=").slice(1).map((row) => ({
        status: row.slice(0, row.indexOf(">")),
        text: row.replace(/<[^>]*>/g, " ").replace(/&[^;]+;/g, (met) => MEANT[met] ?? met).toLowerCase() + around,
      }));
    }
    return table.rows;
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const statuses = filters.filter((one) => one.ariaPressed === "true").map((one) => one.dataset.show);
    const searching = words.length > 0 || statuses.length > 0;
    const fits = (status, text) => (!statuses.length || statuses.includes(status)) && words.every((word) => text.includes(word));
    let found = 0, all = others.length;
    const holding = new Set();
    for (const table of tables) {
      table.fits = searching ? rowsOf(table).map((row) => fits(row.status, row.text)) : null;
      const here = searching ? table.fits.filter(Boolean).length : 1;
      found += here;
      if (searching) all += table.rows.length;
      for (let at = here && table.holder.closest(".module"); at && !holding.has(at); at = at.parentElement.closest(".module"))
        holding.add(at);
      if (table.lines) build(table);
    }
    for (const line of others) {
      line.hidden = searching && !fits(line.dataset.status, line.textContent.toLowerCase());
      found += !line.hidden;
    }
    fold(searching, holding, found <= OPENED);
    byId("found").textContent = searching ? `${found.toLocaleString("en")} of ${all.toLocaleString("en")} shown` : "";
    byId("nothing").hidden = found > 0;
  }

  /* While something is searched for, the modules that hold it are open; after that they are as they were. */
  function fold(searching, holding, opened) {
    for (const module of modules) {
      module.hidden = !holding.has(module);
      if (searching && !wasOpen.has(module)) wasOpen.set(module, module.open);
      if (searching && opened) module.open = !module.hidden;
      else if (wasOpen.has(module)) module.open = wasOpen.get(module);
    }
    if (!searching) wasOpen.clear();
  }

  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 120); });
  for (const one of filters)
    one.addEventListener("click", () => { one.ariaPressed = String(one.ariaPressed !== "true"); show(); });
  byId("open-all").addEventListener("click", () => modules.forEach((module) => { module.open = true; }));
  byId("close-all").addEventListener("click", () => modules.forEach((module) => { module.open = false; }));
  document.addEventListener("toggle", (event) => { if (event.target.open) buildInside(event.target); }, true);

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

  document.querySelectorAll(".tree, .module[open]").forEach(buildInside);
})();
